"""The generator: ``generate`` against recomputing without a cache and against Hugging Face's GPT-2; each phase alone.

Histories are random and of full length, so that every request costs as much as possible. Each model makes S·W
embeddings per outcome. ``oc`` appears twice: with as many steps as ``mt_oc``, and with the steps that it needs to make
as many embeddings as ``mt_oc``. The second case shows what multi-token generation saves.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.floors import matmul_floor
from benchmarks.generator_twins import MatmulFlops, generate_by_recomputing, gpt2_stepping
from benchmarks.options import Options, Progress
from benchmarks.report import Result, Row, compare
from benchmarks.timing import time_together
from pinrec_core.config.presets import PRESETS
from pinrec_core.config.sections import GenerationConfig, ModelConfig, Variant
from pinrec_core.generation.generate import (
    RequestContext,
    condition_of_step,
    decode_step,
    fed_back,
    generate,
    prefill,
    step_embeddings,
)
from pinrec_core.generation.inputs import packed_histories, request_context
from pinrec_core.generation.planning import plan_retrieval
from pinrec_core.history import History
from pinrec_core.model.decoder import DecoderState
from pinrec_core.model.packed_histories import PackedHistories
from pinrec_core.model.pinrec import PinRec
from pinrec_core.model.sequence_model import SequenceModel
from pinrec_core.request import Request

BASELINE = "recompute (no cache)"
GPT2 = "GPT2Model (transformers)"
OUTCOMES, SURFACES, FEATURE_WIDTH = 3, 4, 256
STEPS, OFFSETS, NUM_ITEMS = 6, 4, 100
BATCHES = (1, 8, 32)
TIME = 1_700_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model at one batch size."""

    preset: str
    variant: Variant
    B: int
    S: int
    W: int

    @property
    def config(self) -> ModelConfig:
        model = {**PRESETS[self.preset].model, "max_steps": self.S, "max_offset": self.W}
        return ModelConfig(
            **model, variant=self.variant, num_outcomes=OUTCOMES, num_surfaces=SURFACES, feature_width=FEATURE_WIDTH
        )

    @property
    def label(self) -> dict[str, str | int]:
        return {"preset": self.preset, "variant": self.variant.value, "B": self.B, "S": self.S, "W": self.W}


def cases(options: Options) -> Iterator[Case]:
    for preset in options.presets:
        for B in BATCHES[:1] if options.quick else BATCHES:
            yield Case(preset=preset, variant=Variant.OC, B=B, S=STEPS, W=1)
            yield Case(preset=preset, variant=Variant.MT_OC, B=B, S=STEPS, W=OFFSETS)
        yield Case(preset=preset, variant=Variant.OC, B=1, S=STEPS * OFFSETS, W=1)


def run(options: Options, progress: Progress) -> Result:
    floor = matmul_floor(torch.float32)
    rows: list[Row] = []
    for case in cases(options):
        progress(" ".join(f"{k}={v}" for k, v in case.label.items()))
        needed = MatmulFlops.of(case.config, B=case.B, T=case.config.max_history, S=case.S, W=case.W)
        least = {name: floor.milliseconds(flops) for name, flops in _flops_by_row(needed).items()}
        timings = time_together(functions(case), seconds=options.seconds)
        rows += compare(case.label, timings, BASELINE, floor_ms=least)
    settings = {
        "T": {preset: PRESETS[preset].model["max_history"] for preset in options.presets},
        "O": OUTCOMES, "F": FEATURE_WIDTH, "N": NUM_ITEMS, "dtype": "float32",
    }  # fmt: skip
    return Result(benchmark="generator", baseline=BASELINE, settings=settings, floors=[floor], rows=rows)


def functions(case: Case) -> dict[str, Callable[[], object]]:
    """The functions to be timed, by the name of their row."""
    torch.manual_seed(0)
    config = case.config
    model = PinRec(config).eval()
    requests, id_embedding = random_requests(config, case.B)
    histories = [request.history for request in requests]
    batch = packed_histories(histories, id_embedding, requests)
    context = request_context(requests, GenerationConfig(steps=case.S), device=torch.device("cpu"))
    offsets = tuple(range(1, case.W + 1))
    embedding = generate(model, batch, context, offsets)
    generation = GenerationConfig(steps=case.S, offsets=offsets)
    timed: dict[str, Callable[[], object]] = {
        "generate": lambda: generate(model, batch, context, offsets),
        BASELINE: lambda: generate_by_recomputing(model, batch, context, offsets),
    }
    if importlib.util.find_spec("transformers") is not None:
        timed[GPT2] = gpt2_stepping(config, case.B, config.max_history, case.S)
    prefill, decode, head = _phases(model, batch, context, offsets)
    return timed | {
        "· pack": lambda: packed_histories(histories, id_embedding, requests),
        "· prefill": prefill,
        "· decode steps": decode,
        "· head": head,
        "· compress + allocate": lambda: plan_retrieval(embedding, requests, generation),
    }


def _flops_by_row(needed: MatmulFlops) -> dict[str, int]:
    return {
        "generate": needed.total,
        "· prefill": needed.prefill,
        "· decode steps": needed.decode,
        "· head": needed.head,
    }


def _phases(
    model: SequenceModel, batch: PackedHistories, context: RequestContext, offsets: tuple[int, ...]
) -> tuple[Callable[[], object], ...]:
    """The phases of ``generate``, each alone: prefill, all decode steps, all calls of the head."""
    steps = context.feedback_outcome.shape[1] + 1

    @torch.inference_mode()
    def filled() -> tuple[Tensor, DecoderState]:
        return prefill(model, batch)

    hidden, state = filled()
    with torch.inference_mode():
        embedding = step_embeddings(model, hidden, condition_of_step(model, offsets), context.strength)
        item = fed_back(embedding, context.feedback_outcome[:, 0], offsets)

    @torch.inference_mode()
    def decode() -> None:
        behind = state
        for _ in range(steps - 1):
            _, behind = decode_step(model, item, context, context.timestamp, behind)

    @torch.inference_mode()
    def head() -> None:
        condition = condition_of_step(model, offsets)
        for _ in range(steps):
            step_embeddings(model, hidden, condition, context.strength)

    return filled, decode, head


def random_requests(config: ModelConfig, B: int) -> tuple[list[Request], list[np.ndarray]]:
    """B requests with random histories of full length, and their ID embeddings, FP16 ``[T, I]`` each."""
    random = np.random.default_rng(0)
    T = config.max_history
    histories = [
        History(
            item_key=random.integers(0, 1 << 40, T),
            item_type=(random.random(T) < 0.1).astype(np.uint8),
            outcome=random.integers(0, OUTCOMES, T).astype(np.int16),
            surface=random.integers(0, SURFACES, T).astype(np.int16),
            timestamp=np.sort(random.integers(TIME - 10_000_000, TIME, T)),
            feature=random.integers(-127, 128, (T, FEATURE_WIDTH)).astype(np.int8),
            scale=np.full(T, 1 / 127 / FEATURE_WIDTH**0.5, np.float32),
        )
        for _ in range(B)
    ]
    requests = [
        Request(
            history=history, surface=1, time=TIME, seed=seed, budget=np.full(OUTCOMES, 1 / OUTCOMES),
            num_items=NUM_ITEMS,
        )
        for seed, history in enumerate(histories)
    ]  # fmt: skip
    id_embedding = (random.normal(size=(B, T, config.id_width)) * 0.02).astype(np.float16)
    return requests, list(id_embedding)
