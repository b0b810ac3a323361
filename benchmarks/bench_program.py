"""The compiled generator: against Hugging Face's GPT-2, batches of mixed lengths against their parts, one step of many
embeddings against PinnerFormer, and compression beside the generator that it serves.

Every program is compared with the plain model; ``1 - cosine`` is the largest difference of an embedding. The first row
of each case is its baseline. Floors are the arithmetic of the products at the measured rate of BF16.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.bench_generator import FEATURE_WIDTH, GPT2, NUM_ITEMS, OUTCOMES, SURFACES, random_requests
from benchmarks.floors import Floor, matmul_floor
from benchmarks.generator_twins import MatmulFlops, gpt2_stepping
from benchmarks.options import Options, Progress
from benchmarks.report import Result, Row, Value, compare
from benchmarks.timing import time_together
from pinrec_core.config.presets import PRESETS
from pinrec_core.config.sections import GenerationConfig, ModelConfig, Variant
from pinrec_core.generation.generate import RequestContext, generate
from pinrec_core.generation.inputs import packed_histories, request_context
from pinrec_core.generation.planning import plan_retrieval
from pinrec_core.generation.program import (
    Generate,
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
from pinrec_core.model.pinrec import PinRec
from pinrec_core.request import Request

REFERENCE = "6 x 512"
"""The size that others report: 6 layers, H = 512, a history of 256."""
COMPILED_INT8 = "compiled, INT8"
MIXED_LENGTHS = (256, 20, 100, 180, 60, 10, 240, 130)
MANY_OFFSETS = 16
COMPRESSED = 480
STEPS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A model of one size and variant, S steps of W offsets, and the number of outcomes.

    ``max_history`` is that of the size where it is None.
    """

    name: str
    variant: Variant
    S: int
    W: int = 1
    outcomes: int = OUTCOMES
    max_history: int | None = None

    @property
    def config(self) -> ModelConfig:
        if self.name == REFERENCE:
            sizes = {**PRESETS["small"].model, "layers": 6, "heads": 8, "hidden_width": 512, "max_history": 256}
        else:
            sizes = dict(PRESETS[self.name].model)
        sizes |= {"max_steps": max(self.S, 1), "max_offset": self.W}
        if self.max_history is not None:
            sizes["max_history"] = self.max_history
        return ModelConfig(
            **sizes, variant=self.variant, num_outcomes=self.outcomes, num_surfaces=SURFACES,
            feature_width=FEATURE_WIDTH,
        )  # fmt: skip


class Plain:
    """One size and its plain model with random weights."""

    def __init__(self, size: Size) -> None:
        torch.manual_seed(0)
        self.size = size
        self.offsets = tuple(range(1, size.W + 1))
        self.model = PinRec(size.config).eval()

    def batch(
        self, B: int, lengths: tuple[int, ...] | None = None
    ) -> tuple[PackedHistories, RequestContext, list[Request]]:
        """B random requests of full length, or of ``lengths``."""
        requests, ids = random_requests(self.size.config, B)
        histories = [request.history for request in requests]
        if lengths:
            histories = [history.take(slice(0, T)) for history, T in zip(histories, lengths, strict=True)]
            ids = [values[:T] for values, T in zip(ids, lengths, strict=True)]
        context = request_context(requests, GenerationConfig(steps=self.size.S), device=torch.device("cpu"))
        return packed_histories(histories, ids, requests), context, requests

    def plain(self, history: PackedHistories, request: RequestContext) -> torch.Tensor:
        return generate(self.model, history, request, self.offsets)


class Compiled(Plain):
    """One size with its compiled program, and the seconds that compiling and loading took."""

    def __init__(self, size: Size, folder: Path, products: Products | None = None) -> None:
        super().__init__(size)
        self.products = products or default_products()
        program = program_for_cpu(self.model, steps=size.S, offsets=self.offsets, products=self.products)
        path = folder / f"{size.name}-{size.variant.value}-{size.W}-{self.products.value}.pt2"
        began = time.perf_counter()
        compile_package(program, program_inputs(*self.batch(3)[:2]), path)
        self.compile_seconds = time.perf_counter() - began
        self.generate: Generate = load_package(path)
        self.load_seconds = _seconds_to_load(path)

    def against_plain(self, history: PackedHistories, request: RequestContext) -> dict[str, Value]:
        """The largest 1 − cosine between the program's and the plain model's embeddings, and the time of loading."""
        difference = largest_difference(self.generate(history, request), self.plain(history, request))
        return {"1 - cosine": difference, "load s": self.load_seconds}


def run(options: Options, progress: Progress) -> Result:
    floor = matmul_floor(torch.bfloat16 if default_products() is Products.BF16 else torch.float32)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="pinrec-programs-") as folder:
        small = _compiled(Size(name="small", variant=Variant.OC, S=STEPS), Path(folder), progress)
        made = [small]
        progress("small B=1")
        rows += against_gpt2(small, 1, small.size.config.max_history, floor, options)
        if not options.quick:
            size = Size(name=REFERENCE, variant=Variant.OC, S=STEPS)
            reference = _compiled(size, Path(folder), progress)
            int8 = _compiled(size, Path(folder), progress, Products.INT8) if Products.INT8 in fast_products() else None
            made += [reference] + [int8] * (int8 is not None)
            for B in (1, 8):
                progress(f"{REFERENCE} B={B}")
                rows += against_gpt2(reference, B, reference.size.config.max_history, floor, options, int8)
            rows += _mixed_lengths(reference, options, progress)
            rows += _compression(reference, options, progress)
            rows += _one_step(Path(folder), floor, options, progress)
        settings = {
            "threads": torch.get_num_threads(), "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", ""),
            "products": default_products().value,
            "S": STEPS, "F": FEATURE_WIDTH,
            **{f"{one.size.name} {one.products.value} compiled in s": round(one.compile_seconds, 1) for one in made},
            **{f"{one.size.name} {one.products.value} loaded in s": round(one.load_seconds, 2) for one in made},
        }  # fmt: skip
    return Result(benchmark="program", baseline="the first row of a case", settings=settings, floors=[floor], rows=rows)


def _seconds_to_load(path: Path) -> float:
    """In a process of its own, which has torch already, as the stage does without a program."""
    code = (
        "import sys, time, pathlib, torch; from pinrec_core.generation.program import load_package; "
        "began = time.perf_counter(); load_package(pathlib.Path(sys.argv[1])); print(time.perf_counter() - began)"
    )
    return float(subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True).stdout)


def _compiled(size: Size, folder: Path, progress: Progress, products: Products | None = None) -> Compiled:
    progress(f"compiling {size.name} {size.variant.value} W={size.W} {(products or default_products()).value}")
    return Compiled(size, folder, products)


def against_gpt2(
    made: Plain, B: int, T: int, floor: Floor, options: Options, int8: Compiled | None = None
) -> list[Row]:
    """B histories of T items: GPT-2, the plain model, and the compiled program where ``made`` has one.

    The first of them is the baseline: the plain model where ``transformers`` is not installed.
    """
    config, size = made.size.config, made.size
    history, request, _ = made.batch(B, (T,) * B)
    case: dict[str, Value] = {"case": size.name, "B": B, "T": T}
    more: dict[str, dict[str, Value]] = {}
    timed: dict[str, Callable[[], object]] = {}
    if importlib.util.find_spec("transformers") is not None:
        timed[GPT2] = gpt2_stepping(config, B, T, size.S)
    timed["generate"] = lambda: made.plain(history, request)
    if isinstance(made, Compiled):
        timed["compiled"] = lambda: made.generate(history, request)
        more["compiled"] = made.against_plain(history, request)
    if int8 is not None:
        timed[COMPILED_INT8] = lambda: int8.generate(history, request)
        more[COMPILED_INT8] = int8.against_plain(history, request)
    needed = MatmulFlops.of(config, B=B, T=T, S=size.S, W=size.W)
    timings = time_together(timed, seconds=3 * options.seconds)
    least = dict.fromkeys(("generate", "compiled"), floor.milliseconds(needed.total))
    return compare(case, timings, next(iter(timed)), floor_ms=least, more=more)


def _mixed_lengths(compiled: Compiled, options: Options, progress: Progress) -> list[Row]:
    """A batch of histories of different lengths, against each of them alone, one after the other."""
    progress("mixed lengths")
    together = compiled.batch(len(MIXED_LENGTHS), MIXED_LENGTHS)[:2]
    parts = [compiled.batch(1, (T,))[:2] for T in MIXED_LENGTHS]
    timings = time_together(
        {
            "each alone": lambda: [compiled.generate(*part) for part in parts],
            "one batch": lambda: compiled.generate(*together),
        },
        seconds=3 * options.seconds,
    )
    case = {"case": "mixed lengths", "B": len(MIXED_LENGTHS), "T": f"{min(MIXED_LENGTHS)}-{max(MIXED_LENGTHS)}"}
    return compare(case, timings, "each alone")


def _compression(compiled: Compiled, options: Options, progress: Progress) -> list[Row]:
    """Compression and allocation of 480 embeddings per request, beside the generator."""
    progress("compression")
    B, O = 32, 5
    n = COMPRESSED // O
    history, request, requests = compiled.batch(B)
    requests = [replace(one, budget=np.full(O, 1 / O)) for one in requests]
    centre = torch.nn.functional.normalize(torch.randn(B, O, 1, 64), dim=-1)
    noise = torch.nn.functional.normalize(torch.randn(B, O, n, 64), dim=-1)
    embedding = torch.nn.functional.normalize(centre + 0.6 * noise, dim=-1)
    generation = GenerationConfig(steps=STEPS, offsets=(1,), merge_cosine=0.8)
    timings = time_together(
        {
            "compiled": lambda: compiled.generate(history, request),
            "compress + allocate": lambda: plan_retrieval(embedding, requests, generation),
        },
        seconds=options.seconds,
    )
    return compare({"case": f"compression of {COMPRESSED}", "B": B, "T": 256}, timings, "compiled")


def _one_step(folder: Path, floor: Floor, options: Options, progress: Progress) -> list[Row]:
    """One step of {MT,OC} with 16 offsets against PinnerFormer's one embedding: generation, compression, allocation."""
    timed: dict[str, Callable[[], object]] = {}
    prefill: list[Row] = []
    sizes = {"PinnerFormer": Size(name=REFERENCE, variant=Variant.PINNERFORMER, S=1),
             "{MT,OC}": Size(name=REFERENCE, variant=Variant.MT_OC, S=1, W=MANY_OFFSETS)}  # fmt: skip
    for name, size in sizes.items():
        compiled = _compiled(size, folder, progress)
        history, request, requests = compiled.batch(1)
        generation = GenerationConfig(steps=1, offsets=compiled.offsets)
        conditions = size.config.num_conditions
        requests = [replace(one, budget=np.full(conditions, 1 / conditions)) for one in requests]

        def whole(
            compiled: Compiled = compiled, history: PackedHistories = history, request: RequestContext = request,
            requests: list[Request] = requests, generation: GenerationConfig = generation,
        ) -> object:  # fmt: skip
            return plan_retrieval(compiled.generate(history, request), requests, generation)

        timed[name] = whole
        if name == "PinnerFormer":  # one step is a prefill and one call of the head
            prefill = _prefill(compiled, floor, options)
    progress("one step")
    timings = time_together(timed, seconds=3 * options.seconds)
    case = {"case": f"one step, {MANY_OFFSETS} offsets, N={NUM_ITEMS}", "B": 1, "T": 256}
    return prefill + compare(case, timings, "PinnerFormer")


def _prefill(compiled: Compiled, floor: Floor, options: Options) -> list[Row]:
    B, config = 8, compiled.size.config
    history, request, _ = compiled.batch(B)
    needed = MatmulFlops.of(config, B=B, T=config.max_history, S=1, W=1)
    timings = time_together({"compiled": lambda: compiled.generate(history, request)}, seconds=3 * options.seconds)
    least = {"compiled": floor.milliseconds(needed.total)}
    return compare({"case": "prefill", "B": B, "T": config.max_history}, timings, "compiled", floor_ms=least)
