"""Embeddings per step at a constant total (PinRec, evaluation): recall, diversity and latency.

With more offsets per step, as many embeddings need fewer steps. The latency is that of generation alone, for one
request at a time on this machine. Served lists are not compared, because the step discount is calibrated for one number
of steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from pinrec_core.evaluation.cases import EvaluationCase
from pinrec_core.evaluation.held_out import evaluate
from pinrec_core.evaluation.result import EvaluationResult
from pinrec_core.evaluation.subjects import ModelSubject
from pinrec_core.generation.defaults import with_embeddings
from pinrec_core.generation.generate import generate
from pinrec_core.generation.inputs import embedded_histories, request_context

OFFSETS_PER_STEP = (1, 2, 4, 8, 16)
METRICS = (
    "users", "targets_per_user", "catalogue", "embeddings", "k", "unordered_recall", "distinct_items", "diversity",
    "catalogue_coverage",
)  # fmt: skip
_WARM_UP = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds per request at batch 1."""

    median_ms: float
    p99_ms: float
    requests: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsPoint:
    """One way to generate the same number of embeddings."""

    offsets_per_step: int  # W
    steps: int  # S
    embeddings_per_step: int  # O·W
    latency: Latency
    result: EvaluationResult

    def to_dict(self) -> dict[str, Any]:
        return {
            "offsets_per_step": self.offsets_per_step,
            "steps": self.steps,
            "embeddings_per_step": self.embeddings_per_step,
            "latency": self.latency.to_dict(),
            "metrics": {name: self.result.metrics[name] for name in METRICS},
        }


def sweep_embeddings_per_step(
    subject: ModelSubject,
    cases: Sequence[EvaluationCase],
    *,
    total: int,
    offsets_per_step: Sequence[int] = OFFSETS_PER_STEP,
    k: int = 10,
    requests: int = 200,
    report: Callable[[int], None] = lambda _: None,
) -> Iterator[StepsPoint]:
    """One point per W, with the offsets 1..W and S = ``total`` / (O·W) steps.

    Raises ``ConfigError`` when a W does not divide the total, or lies beyond what the model was made for.
    """
    model = subject.indexed.model.config
    settings = [
        with_embeddings(subject.indexed.generation, model, embeddings=total, offsets=range(1, W + 1))
        for W in offsets_per_step
    ]
    for W, generation in zip(offsets_per_step, settings, strict=True):
        point = ModelSubject(f"{subject.name} W={W}", replace(subject.indexed, generation=generation), subject.budget)
        yield StepsPoint(
            offsets_per_step=W,
            steps=generation.steps,
            embeddings_per_step=total // generation.steps,
            latency=generation_latency(point, cases, requests=requests),
            result=evaluate(
                point, cases, outcomes=subject.indexed.dataset.outcomes, surfaces=subject.indexed.dataset.surfaces,
                k=k, report=report,
            ),
        )  # fmt: skip


def generation_latency(subject: ModelSubject, cases: Sequence[EvaluationCase], *, requests: int) -> Latency:
    """Time ``generate`` for one user at a time, over ``requests`` requests after a warm-up."""
    indexed = subject.indexed
    taken = []
    for number in range(_WARM_UP + requests):
        request = [cases[number % len(cases)].request(subject.budget)]
        histories = embedded_histories(indexed.model, indexed.embed_ids, request)
        device = indexed.model.start_token.device
        context = request_context(request, indexed.generation, device=device)
        start = time.perf_counter()
        embedding = generate(indexed.model, histories, context, indexed.generation.offsets)
        if embedding.is_cuda:  # kernels are still running when the call returns
            torch.cuda.synchronize(embedding.device)
        taken.append(time.perf_counter() - start)
    milliseconds = 1e3 * np.array(taken[_WARM_UP:])
    return Latency(
        median_ms=float(np.median(milliseconds)), p99_ms=float(np.quantile(milliseconds, 0.99)), requests=requests
    )
