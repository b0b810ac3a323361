"""The generator: ``generate`` against recomputing without a cache and against Hugging Face's GPT-2; its phases apart.

Histories are random and of full length, so that every request costs the most it can. Every variant makes S·W
embeddings per outcome; ``oc`` appears twice, with one offset at the same steps, and with as many embeddings as
``mt_oc`` makes (what multi-token generation saves).
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
from pinrec_core.collate import collate
from pinrec_core.config import PRESETS, GenerationConfig, ModelConfig, Variant
from pinrec_core.decoder import KeyValueCache
from pinrec_core.generation import (
    RequestContext,
    condition_of_step,
    draw_feedback_outcomes,
    embeddings_of_step,
    generate,
)
from pinrec_core.history import History
from pinrec_core.model import PinRec
from pinrec_core.retrieval_plan import plan_retrieval
from pinrec_core.sequence_model import HistoryBatch, SequenceModel

BASELINE = "recompute (no cache)"
GPT2 = "GPT2Model (transformers)"
OUTCOMES, SURFACES, FEATURE_WIDTH = 3, 4, 256
STEPS, OFFSETS, NUM_ITEMS = 6, 4, 100
BATCHES = (1, 8, 32)
TIME = 1_700_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model, one batch size."""

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
    """What is timed, by the name of its row."""
    torch.manual_seed(0)
    config = case.config
    model = PinRec(config).eval()
    histories, id_embedding = _histories(case)
    batch = collate(histories, id_embedding)
    request = _request(case)
    offsets = tuple(range(1, case.W + 1))
    embedding = generate(model, batch, request, offsets)
    generation = GenerationConfig(steps=case.S, offsets=offsets)
    budgets = [np.full(OUTCOMES, 1 / OUTCOMES)] * case.B
    timed: dict[str, Callable[[], object]] = {
        "generate": lambda: generate(model, batch, request, offsets),
        BASELINE: lambda: generate_by_recomputing(model, batch, request, offsets),
    }
    if importlib.util.find_spec("transformers") is not None:
        timed[GPT2] = gpt2_stepping(config, case.B, config.max_history, case.S)
    prefill, decode, head = _phases(model, batch, request, offsets)
    return timed | {
        "· collate": lambda: collate(histories, id_embedding),
        "· prefill": prefill,
        "· decode steps": decode,
        "· head": head,
        "· compress + allocate": lambda: plan_retrieval(
            embedding, budgets, [NUM_ITEMS] * case.B, [0] * case.B, generation
        ),
    }


def _flops_by_row(needed: MatmulFlops) -> dict[str, int]:
    return {
        "generate": needed.total,
        "· prefill": needed.prefill,
        "· decode steps": needed.decode,
        "· head": needed.head,
    }


def _phases(
    model: SequenceModel, batch: HistoryBatch, request: RequestContext, offsets: tuple[int, ...]
) -> tuple[Callable[[], object], ...]:
    """The phases of ``generate`` apart: prefill, all decode steps, all head calls. The cache of one prefill is decoded
    over and over: later positions are overwritten, earlier ones stay."""
    B, T, _ = batch.feature.shape
    steps = request.feedback_outcome.shape[1] + 1
    row = torch.arange(B)

    @torch.inference_mode()
    def prefill() -> tuple[KeyValueCache, Tensor]:
        cache = KeyValueCache.allocate(model.decoder, B, T + steps)
        hidden, _ = model(batch, cache)
        cache.advance(1 + batch.length)
        return cache, hidden[row, batch.length]

    filled, hidden = prefill()
    with torch.inference_mode():
        fed_back = embeddings_of_step(model, hidden, offsets)[:, 0, 0]

    @torch.inference_mode()
    def decode() -> None:
        cache = KeyValueCache(key=filled.key, value=filled.value, length=filled.length)
        for _ in range(steps - 1):
            token = model.tokens(fed_back, request.surface, request.timestamp, request.timestamp)
            model.decoder(token.unsqueeze(1), cache)
            cache.advance(1)

    @torch.inference_mode()
    def head() -> None:
        condition = condition_of_step(model, offsets)
        for _ in range(steps):
            model.head.conditioned(hidden[:, None, None, :], condition)

    return prefill, decode, head


def _histories(case: Case) -> tuple[list[History], Tensor]:
    """B random histories of full length, with their ID embeddings ``[B, T, I]``."""
    random = np.random.default_rng(0)
    T = case.config.max_history
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
        for _ in range(case.B)
    ]
    return histories, torch.randn(case.B, T, case.config.id_width) * 0.02


def _request(case: Case) -> RequestContext:
    budget = np.full(OUTCOMES, 1 / OUTCOMES)
    feedback = np.stack([draw_feedback_outcomes(budget, case.S, seed) for seed in range(case.B)])
    return RequestContext(
        surface=torch.ones(case.B, dtype=torch.int64),
        timestamp=torch.full((case.B,), TIME),
        feedback_outcome=torch.from_numpy(feedback),
    )
