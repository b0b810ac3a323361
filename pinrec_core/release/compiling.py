"""Compiles the generator of a release for this machine, and compares it with the plain model before it may serve.

``pinrec release --compile`` makes the program a part of the release. ``pinrec tune`` puts it beside the releases
(``programs``): a release that is published does not change.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pinrec_core.errors import ConfigError, ReleaseError
from pinrec_core.files.file_writing import writing
from pinrec_core.files.output_folder import built_beside
from pinrec_core.generation.generate import RequestContext, generate
from pinrec_core.generation.inputs import embedded_histories, request_context
from pinrec_core.generation.program import (
    COSINE_TOLERANCE,
    Products,
    compile_package,
    default_products,
    fast_products,
    largest_difference,
    load_package,
    program_for_cpu,
    program_inputs,
)
from pinrec_core.model.packed_histories import PackedHistories
from pinrec_core.release.format import Release
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.release.manifest import Part
from pinrec_core.release.programs import (
    FILE,
    LOCAL_MANIFEST,
    LocalProgram,
    fit_of_this_machine,
    identity,
    local_folder,
)
from pinrec_core.release.sample_requests import sample_requests
from pinrec_core.validation import save_json

TOLERANCES = {
    Products.FP32: COSINE_TOLERANCE,
    Products.BF16: COSINE_TOLERANCE,
    Products.INT8: 1e-2,  # factors are rounded by up to 1/254 of the largest of a token or channel; 1e-4 is usual
}
"""The largest allowed 1 − cosine between an embedding of the program and the plain model's."""
RECALL_LOSS = 0.005
"""The largest allowed loss of served recall by INT8, as a share of the plain model's."""


def compile_for_this_machine(release: Release) -> Path:
    """Compile the generator of a published release for this machine → its folder beside the releases.

    What lies there already is replaced. Raises what ``add_program`` raises, and ``DataError`` or ``StorageError`` where
    the folder cannot be written.
    """
    target = local_folder(release)
    with built_beside(target) as building:
        part = add_program(IndexedModel.from_release(release), building)
        save_json(LocalProgram(release=identity(release), program=part), building / LOCAL_MANIFEST)
    return target


def has_compiler() -> bool:
    """Whether a program can be compiled on this machine."""
    return any(shutil.which(name) for name in ("g++", "clang++"))


def add_program(
    serving: IndexedModel, folder: Path, products: Products | None = None, *, search: bool | None = None
) -> Part:
    """Compile the generator of ``serving`` into ``folder`` → the part.

    ``products`` is the number format of the decoder's products, by default ``default_products``. ``search`` as for
    ``compile_package``. Raises ``ConfigError`` without a C++ compiler or for products that this processor is not made
    for, and ``ReleaseError`` when the program's embeddings differ from the plain model's.
    """
    if not has_compiler():
        raise ConfigError("compile=True: expected a C++ compiler (g++ or clang++) on the PATH; or leave it out")
    products = products or default_products()
    if products is not Products.FP32 and products not in fast_products():
        raise ConfigError(f"products={products.value!r}: expected one of {[one.value for one in fast_products()]} here")
    history, request = _sample(serving)
    generation = serving.generation
    program = program_for_cpu(serving.model, steps=generation.steps, offsets=generation.offsets, products=products)
    path = folder / FILE
    with writing(path):
        compile_package(program, program_inputs(history, request), path, search=search)
    made = load_package(path)(history, request)
    difference = largest_difference(made, generate(serving.model, history, request, generation.offsets))
    if not difference <= TOLERANCES[products]:
        raise ReleaseError(
            f"{path}: 1 - cosine to the plain model's embeddings is up to {difference:.2g}, expected at most "
            f"{TOLERANCES[products]}; release without a compiled program"
        )
    attributes = fit_of_this_machine() | {"products": products.value, "difference": f"{difference:.2g}"}
    return Part.of(folder, FILE, attributes=attributes)


def check_served_recall(*, compiled: Mapping[str, Any], plain: Mapping[str, Any]) -> None:
    """Raises ``ReleaseError`` where a program serves users less of what they did next than the plain model does.

    Both are the metrics of an evaluation on the same users; where it knows no served recall, nothing is compared.
    """
    name = "served_recall"
    if name in plain and compiled[name] < (1 - RECALL_LOSS) * plain[name]:
        raise ReleaseError(
            f"the compiled generator serves a recall of {compiled[name]:.4f}, the plain one {plain[name]:.4f}: "
            f"expected at most {RECALL_LOSS:.1%} less; compile with other --products, or publish it with "
            "--accept-recall"
        )


def _sample(serving: IndexedModel) -> tuple[PackedHistories, RequestContext]:
    """The batch on which the program is compared with the model."""
    requests = sample_requests(serving, num_items=1)
    device = serving.model.start_token.device
    context = request_context(requests, serving.generation, device=device)
    return embedded_histories(serving.model, serving.embed_ids, requests), context
