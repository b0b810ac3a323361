"""How fast a run trains, and what share of the machine's arithmetic it uses.

Utilisation is model FLOPs utilisation (MFU; Chowdhery et al., 2022, PaLM, appendix B): the FLOPs that the model needs,
without padding and recomputation, divided by those that the device does in the same time on large matrix products of
the same precision. This ceiling is measured on whatever share of the machine is free at that time. Where other programs
slow it down during the measurement, utilisation can read above 1.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence

import torch

from pinrec_core.config.sections import ModelConfig, Precision
from pinrec_core.model.flops import ForwardFlops
from pinrec_core.objective.objective import Scored

WINDOW_SECONDS = 30.0
MEASURE_SECONDS = 0.05


def training_flops(model: ModelConfig, lengths: Sequence[int], scored: Scored) -> float:
    """FLOPs of the forward and backward pass over one batch of histories of ``lengths`` interactions.

    The backward pass needs twice as many as the forward pass: one product for the gradient of each factor.
    """
    flops = ForwardFlops.of(model)
    interactions, candidates = sum(lengths), scored.in_batch + scored.random
    # Both embedders run on every interaction, whatever its type. Each history has a start token, which has a time.
    inputs = interactions * (flops.embed_pin + flops.embed_query + flops.project_item)
    inputs += (interactions + len(lengths)) * flops.project_time
    decoder = sum(flops.decode(1 + length) for length in lengths)
    answers = scored.queries * (flops.read_hidden + flops.answer + candidates * flops.score)
    return 3.0 * (inputs + scored.random * flops.embed_pin + decoder + answers)


def measured_peak(device: torch.device, precision: Precision) -> float:
    """FLOP/s of the fastest of several large square matrix products on ``device``: the ceiling for utilisation.

    The fastest is taken and not the mean, because other programs can slow a product down but never speed it up.
    """
    dtype = torch.bfloat16 if precision is Precision.BF16 else torch.float32
    # On a CPU the large product keeps many threads busy; the small one can finish before another program gets the core.
    return max(_rate(n, dtype, device) for n in ((8192,) if device.type == "cuda" else (384, 1024)))


def _rate(n: int, dtype: torch.dtype, device: torch.device) -> float:
    matrix = torch.ones(n, n, dtype=dtype, device=device)
    result = torch.empty_like(matrix)
    _multiply(matrix, result)
    fastest, end = math.inf, time.perf_counter() + MEASURE_SECONDS
    while (started := time.perf_counter()) < end or fastest == math.inf:
        _multiply(matrix, result)
        fastest = min(fastest, time.perf_counter() - started)
    return 2.0 * n**3 / fastest


def _multiply(matrix: torch.Tensor, result: torch.Tensor) -> None:
    torch.mm(matrix, matrix, out=result)
    if matrix.device.type == "cuda":
        torch.cuda.synchronize(matrix.device)


class Throughput:
    """Interactions and FLOPs per second of one process over its last ``WINDOW_SECONDS`` of steps, without pauses."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int, float]] = deque()
        self._seconds, self._interactions, self._flops = 0.0, 0, 0.0

    def add(self, seconds: float, interactions: int, flops: float) -> None:
        """Count one step, and forget steps that have left the window."""
        self._steps.append((seconds, interactions, flops))
        self._count(seconds, interactions, flops)
        while self._seconds - self._steps[0][0] >= WINDOW_SECONDS:
            seconds, interactions, flops = self._steps.popleft()
            self._count(-seconds, -interactions, -flops)

    def _count(self, seconds: float, interactions: int, flops: float) -> None:
        self._seconds += seconds
        self._interactions += interactions
        self._flops += flops

    @property
    def interactions_per_second(self) -> float:
        return self._interactions / self._seconds if self._seconds > 0 else 0.0

    @property
    def flops_per_second(self) -> float:
        return self._flops / self._seconds if self._seconds > 0 else 0.0
