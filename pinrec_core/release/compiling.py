"""Compiles the generator of a release for this machine, and compares it with the plain model before it may serve.

``pinrec release --compile`` makes the program a part of the release. ``pinrec tune`` puts it beside the releases
(``programs``): a release that is published does not change.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from pinrec_core.errors import ConfigError, ReleaseError
from pinrec_core.files.file_writing import writing
from pinrec_core.files.output_folder import built_beside
from pinrec_core.generation.generate import RequestContext, generate
from pinrec_core.generation.inputs import embedded_histories, request_context
from pinrec_core.generation.program import (
    COSINE_TOLERANCE,
    compile_package,
    default_products,
    largest_difference,
    load_package,
    program_for_cpu,
    program_inputs,
)
from pinrec_core.history import NO_OUTCOME, History, ItemType
from pinrec_core.model.packed_histories import PackedHistories
from pinrec_core.release.format import Part, Release
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.release.programs import (
    FILE,
    LOCAL_MANIFEST,
    LocalProgram,
    fit_of_this_machine,
    identity,
    local_folder,
)
from pinrec_core.request import Request
from pinrec_core.validation import save_json

SAMPLE = 8


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


def add_program(serving: IndexedModel, folder: Path) -> Part:
    """Compile the generator of ``serving`` into ``folder`` → the part.

    Raises ``ConfigError`` without a C++ compiler, and ``ReleaseError`` when the program's embeddings differ from the
    plain model's.
    """
    if not has_compiler():
        raise ConfigError("compile=True: expected a C++ compiler (g++ or clang++) on the PATH; or leave it out")
    history, request = _sample(serving)
    products = default_products()
    program = program_for_cpu(
        serving.model, steps=serving.generation.steps, offsets=serving.generation.offsets, products=products
    )
    path = folder / FILE
    with writing(path):
        compile_package(program, program_inputs(history, request), path)
    made = load_package(path)(history, request)
    difference = largest_difference(made, generate(serving.model, history, request, serving.generation.offsets))
    if not difference <= COSINE_TOLERANCE:
        raise ReleaseError(
            f"{path}: 1 - cosine to the plain model's embeddings is up to {difference:.2g}, expected at most "
            f"{COSINE_TOLERANCE}; release without a compiled program"
        )
    attributes = fit_of_this_machine() | {"products": products.value, "difference": f"{difference:.2g}"}
    return Part.of(folder, FILE, attributes=attributes)


def _sample(serving: IndexedModel) -> tuple[PackedHistories, RequestContext]:
    """A batch of requests of all lengths, from none to the longest history, of random items of the catalogue."""
    random = np.random.default_rng(0)
    config, catalogue = serving.model.config, serving.catalogue
    requests = []
    for seed, T in enumerate(np.linspace(0, config.max_history, SAMPLE, dtype=int).tolist()):
        row = np.sort(random.integers(0, len(catalogue), T))
        history = History(
            item_key=catalogue.item_key[row],
            item_type=np.full(T, ItemType.PIN, np.uint8),
            outcome=np.full(T, NO_OUTCOME, np.int16),
            surface=random.integers(0, config.num_surfaces, T).astype(np.int16),
            timestamp=np.sort(random.integers(1_600_000_000, 1_700_000_000, T)),
            feature=catalogue.feature[row],
            scale=catalogue.scale[row],
        )
        requests.append(
            Request(
                history=history, surface=0, time=1_700_000_000, seed=seed, budget=serving.default_budget, num_items=1
            )
        )
    device = serving.model.start_token.device
    context = request_context(requests, steps=serving.generation.steps, device=device)
    return embedded_histories(serving.model, serving.embed_ids, requests), context
