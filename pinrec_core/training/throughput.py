"""How fast a run trains, and what share of the machine's arithmetic it uses.

Utilisation is model FLOPs utilisation (MFU; Chowdhery et al., 2022, PaLM, appendix B): the FLOPs that the model needs,
padding and recomputation not counted, over those that the device does in the same time on large matrix products of the
same precision. Counted are matrix products alone, a multiplication and an addition as two. The ceiling is measured, on
whatever share of the machine is free at that time: a clock that others disturb can still read above 1.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence

import torch

from pinrec_core.config.sections import ModelConfig, Precision, Variant
from pinrec_core.objective.objective import Scored
from pinrec_core.representations import time_features

WINDOW_SECONDS = 30.0
MEASURE_SECONDS = 0.05


def training_flops(model: ModelConfig, lengths: Sequence[int], scored: Scored) -> float:
    """FLOPs of the forward and backward pass over one batch of histories of ``lengths`` interactions.

    Six per weight and use (two forward, four backward), and six per multiplication of attention and loss.
    """
    interactions, queries, candidates = sum(lengths), scored.queries, scored.in_batch + scored.random
    H, D = model.hidden_width, model.item_width
    match model.variant:
        case Variant.DOT_PRODUCT:  # nothing but tables
            return 6.0 * queries * candidates * model.id_width
        case Variant.SASREC:
            inputs, head = 0, H * D
        case _:
            pin = _embedder_weights(model, model.feature_width + model.id_width)
            query = _embedder_weights(model, model.feature_width)  # runs on every position, as the pins' does
            inputs = interactions * (pin + query) + scored.random * pin
            inputs += (interactions + len(lengths)) * time_features.WIDTH * H
            head = 2 * H * H + 2 * H * D
    inputs += interactions * D * H  # to tokens
    return 6.0 * (inputs + _decoder_products(model, lengths) + queries * (head + candidates * D))


def _embedder_weights(model: ModelConfig, input_width: int) -> int:
    D, layers = model.item_width, model.embedder_layers
    return input_width * D if layers == 1 else input_width * 2 * D + (layers - 2) * 4 * D * D + 2 * D * D


def _decoder_products(model: ModelConfig, lengths: Sequence[int]) -> int:
    """Attention's four matrices and the MLP's two; queries with the keys, weights with the values. Causal: a token
    attends to itself and to those before it, the start token first."""
    H = model.hidden_width
    tokens = sum(length + 1 for length in lengths)
    attended = sum((length + 1) * (length + 2) // 2 for length in lengths)
    return model.layers * (tokens * 12 * H * H + attended * 2 * H)


def measured_peak(device: torch.device, precision: Precision) -> float:
    """FLOP/s of the fastest of some large square matrix products on ``device``: the ceiling for utilisation.

    The fastest, not the mean: others may hold the device for a while, but nobody makes it faster than it is.
    """
    dtype = torch.bfloat16 if precision is Precision.BF16 else torch.float32
    # On the CPU one size that many threads can share, and one that fits between the turns of others on the same core.
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
    """Interactions and FLOPs per second of one process over the last ``WINDOW_SECONDS``, pauses left out."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int, float]] = deque()
        self._seconds, self._interactions, self._flops = 0.0, 0, 0.0

    def add(self, seconds: float, interactions: int, flops: float) -> None:
        """One step; what lies further back than the window goes."""
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
