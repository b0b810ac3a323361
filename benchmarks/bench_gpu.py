"""The generator on a GPU: CUDA graphs against Hugging Face's GPT-2 with a static cache and ``torch.compile``.

The case is ``base`` with T = 512 and 6 steps of 5 outcomes × 16 offsets. GPT-2 is the decoder alone, with one embedding
a step. ``stage`` is all that the generator's stage does with a batch: packing, one copy to the device, generation and
compression there, one copy back, and allocation. Floors are the arithmetic of the products at the measured rate.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from benchmarks.bench_generator import FEATURE_WIDTH, random_requests
from benchmarks.bench_program import Size
from benchmarks.floors import Floor
from benchmarks.generator_twins import MatmulFlops, gpt2_static
from benchmarks.options import Options, Progress
from benchmarks.report import Result, Row, Value, compare
from benchmarks.timing import time_together
from pinrec_core.config.sections import GenerationConfig, Precision, Variant
from pinrec_core.errors import ConfigError, require
from pinrec_core.generation.buckets import MAX_BATCH_SIZE, Bucket
from pinrec_core.generation.captured import CapturedGenerator, Recorder
from pinrec_core.generation.cuda_graphs import CudaGraphs
from pinrec_core.generation.generate import RequestContext, generate
from pinrec_core.generation.inputs import packed_histories, request_context
from pinrec_core.generation.planning import merged, plan_of_weights
from pinrec_core.generation.program import largest_difference
from pinrec_core.model.packed_histories import PackedHistories
from pinrec_core.model.pinrec import PinRec
from pinrec_core.request import Request
from pinrec_core.training.throughput import measured_peak

SIZE = Size(name="base", variant=Variant.MT_OC, S=6, W=16, outcomes=5)
BATCHES = (1, MAX_BATCH_SIZE)
GPT2 = "GPT2Model, static cache, compiled"
MERGE_COSINE = 0.9


def run(options: Options, progress: Progress) -> Result:
    """Raises ``ConfigError`` without a CUDA device."""
    require(torch.cuda.is_available(), "device", "cuda", "a CUDA device, which this machine lacks", error=ConfigError)
    device = torch.device("cuda")
    size = replace(SIZE, name="small") if options.quick else SIZE
    progress("rate of products")
    rate = measured_peak(device, Precision.BF16)  # that of FP16 is the same on every GPU that has both
    floor = Floor(name="matmul 8192³, 16 bits", unit="FLOP", per_second=rate)
    return measured(size, CudaGraphs(device), torch.float16, floor, options, progress)


def measured(
    size: Size, recorder: Recorder, dtype: torch.dtype, floor: Floor, options: Options, progress: Progress
) -> Result:
    """All rows, on the recorder's device."""
    progress("recording")
    generators = Generators(size, recorder, dtype)
    rows: list[Row] = []
    for B in BATCHES:
        progress(f"B={B}")
        rows += _rows(generators, B, floor, options)
    settings = {
        "S": size.S, "W": size.W, "O": size.outcomes, "F": FEATURE_WIDTH, "format": str(dtype).removeprefix("torch."),
        "recorded in s": round(generators.seconds, 1), "memory MiB": round(generators.memory / 2**20, 1),
    }  # fmt: skip
    return Result(benchmark="gpu", baseline="the first row of a case", settings=settings, floors=[floor], rows=rows)


class Generators:
    """A random model of one size, plain and recorded, with the seconds and the memory that recording took."""

    def __init__(self, size: Size, recorder: Recorder, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.size, self.device, self.dtype = size, recorder.device, dtype
        self.offsets = tuple(range(1, size.W + 1))
        self.model = PinRec(size.config).eval().to(self.device, dtype)
        self.generation = GenerationConfig(steps=size.S, offsets=self.offsets, merge_cosine=MERGE_COSINE)
        buckets = [Bucket(rows=B, positions=1 + size.config.max_history) for B in BATCHES]
        memory, began = recorder.memory(), time.perf_counter()
        self.captured = CapturedGenerator(self.model, self.generation, recorder=recorder, buckets=buckets)
        self.seconds, self.memory = time.perf_counter() - began, recorder.memory() - memory

    def plain(self, history: PackedHistories, request: RequestContext) -> torch.Tensor:
        made = generate(self.model, history.to(self.device), request.to(self.device), self.offsets)
        return made.cpu()  # waits for the device

    def stage(self, requests: list[Request], ids: list[np.ndarray]) -> object:
        """What the generator's stage does with a batch."""
        history, request = self.packed(requests, ids)
        return plan_of_weights(*self.captured(history, request), requests, self.generation)

    def packed(self, requests: list[Request], ids: list[np.ndarray]) -> tuple[PackedHistories, RequestContext]:
        context = request_context(requests, GenerationConfig(steps=self.size.S), device=torch.device("cpu"))
        return packed_histories([request.history for request in requests], ids, requests), context


def _rows(generators: Generators, B: int, floor: Floor, options: Options) -> list[Row]:
    size, config = generators.size, generators.size.config
    drawn, ids = random_requests(config, B)
    requests = [replace(one, budget=np.full(size.outcomes, 1 / size.outcomes)) for one in drawn]
    history, request = generators.packed(requests, ids)
    timed: dict[str, Callable[[], object]] = {}
    if importlib.util.find_spec("transformers") is not None:
        timed[GPT2] = gpt2_static(
            config, B, config.max_history, size.S, device=generators.device, dtype=generators.dtype
        )
    timed["generate"] = lambda: generators.plain(history, request)
    timed["captured"] = lambda: generators.captured(history, request)
    timed["stage"] = lambda: generators.stage(requests, ids)
    timings = time_together(timed, seconds=3 * options.seconds)
    more: dict[str, dict[str, Value]] = {
        what: {"requests/s": B / timing.median_ms * 1e3, "device operations": device_operations(timed[what])}
        for what, timing in timings.items()
    }
    made, weight = generators.captured(history, request)
    expected, expected_weight = (t.cpu() for t in merged(generators.plain(history, request), generators.generation))
    # In half precision a cosine near the threshold may fall on either side of it; the rest of its group follows.
    alike = torch.isclose(weight, expected_weight).all(dim=-1)
    more["captured"]["1 - cosine"] = largest_difference(made[alike], expected[alike])
    needed = floor.milliseconds(MatmulFlops.of(config, B=B, T=config.max_history, S=size.S, W=size.W).total)
    least = dict.fromkeys(("generate", "captured", "stage"), needed)
    case: dict[str, Value] = {"case": size.name, "B": B, "T": config.max_history}
    return compare(case, timings, next(iter(timed)), floor_ms=least, more=more)


def device_operations(function: Callable[[], object]) -> int:
    """Kernels, copies and fills that a GPU runs in one call. Those of a CUDA graph are its nodes. 0 without a GPU."""
    if not torch.cuda.is_available():
        return 0
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())
