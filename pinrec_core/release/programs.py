"""The compiled generator of a release: an optional part, for one kind of processor and one version of torch.

It is made when a release is made, and compared with the plain model before it may join. Where it does not fit, the
generator runs the plain model, and says so once.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import torch

from pinrec_core.errors import ConfigError, ReleaseError
from pinrec_core.files.file_writing import writing
from pinrec_core.generation.generate import RequestContext, generate
from pinrec_core.generation.inputs import embedded_histories, request_context
from pinrec_core.generation.program import (
    COSINE_TOLERANCE,
    Generate,
    GenerationProgram,
    compile_package,
    largest_difference,
    load_package,
    multiplies_bf16,
    processor,
    program_inputs,
    with_bf16_products,
)
from pinrec_core.history import NO_OUTCOME, History, ItemType
from pinrec_core.model.packed_histories import PackedHistories
from pinrec_core.release.format import Part, Release
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.request import Request

PROGRAM = "generator_program"
FILE = "generator_program.pt2"
SAMPLE = 8

log = logging.getLogger(__name__)


def fit_of_this_machine() -> dict[str, str]:
    """What a program must have been compiled for to run here."""
    return {"processor": processor(), "torch": torch.__version__}


def add_program(serving: IndexedModel, folder: Path) -> Part:
    """Compile the generator of ``serving`` into ``folder`` → the part.

    Raises ``ConfigError`` without a C++ compiler, and ``ReleaseError`` when the program's embeddings differ from the
    plain model's.
    """
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise ConfigError("compile=True: expected a C++ compiler (g++ or clang++) on the PATH; or leave it out")
    history, request = _sample(serving)
    bf16 = multiplies_bf16()
    model = with_bf16_products(serving.model) if bf16 else serving.model
    program = GenerationProgram(model, steps=serving.generation.steps, offsets=serving.generation.offsets)
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
    attributes = fit_of_this_machine() | {"products": "bf16" if bf16 else "fp32", "difference": f"{difference:.2g}"}
    return Part.of(folder, FILE, attributes=attributes)


def load_program(release: Release) -> Generate | None:
    """The compiled generator of a release, or None, with one warning where it was made for another machine."""
    part = release.manifest.parts.get(PROGRAM)
    if part is None:
        return None
    here = fit_of_this_machine()
    other = {name: part.attributes.get(name) for name, value in here.items() if part.attributes.get(name) != value}
    if other:
        log.warning(
            "%s: compiled for %s, this machine has %s; the generator runs uncompiled",
            release.folder / part.file, other, {name: here[name] for name in other},
        )  # fmt: skip
        return None
    generate = load_package(release.path(PROGRAM))
    log.info("%s: the generator runs compiled, products in %s", release.folder / part.file, part.attributes["products"])
    return generate


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
