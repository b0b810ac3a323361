"""How fast a run trains, and what share of the machine's arithmetic it uses.

Utilisation is model FLOPs utilisation (MFU; Chowdhery et al., 2022, PaLM, appendix B): the FLOPs that the model needs,
padding and recomputation not counted, over those that the device does in the same time on large matrix products of the
same precision. Counted are matrix products alone, a multiplication and an addition as two.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import torch

from pinrec_core import time_features
from pinrec_core.config import ModelConfig, ObjectiveConfig, Precision, Variant

WINDOW_SECONDS = 30.0
MEASURE_SECONDS = 0.2


def training_flops(model: ModelConfig, objective: ObjectiveConfig, lengths: Sequence[int]) -> float:
    """FLOPs of the forward and backward pass over one batch of histories of ``lengths`` interactions.

    Six per weight and use (two forward, four backward), and six per multiplication of attention and loss. The number of
    queries is its upper bound: one for each of a window's outcomes, and most windows have fewer than they could.
    """
    interactions = sum(lengths)
    per_window = min(objective.window, model.num_conditions) if model.variant.multi_token else 1
    queries = min(objective.windows_per_step, interactions * model.max_offset) * per_window
    candidates = min(objective.in_batch_negatives, interactions) + objective.random_negatives
    H, D = model.hidden_width, model.item_width
    match model.variant:
        case Variant.DOT_PRODUCT:  # nothing but tables
            return 6.0 * queries * candidates * model.id_width
        case Variant.SASREC:
            inputs, head = 0, H * D
        case _:
            pin = _embedder_weights(model, model.feature_width + model.id_width)
            query = _embedder_weights(model, model.feature_width)  # runs on every position, as the pins' does
            inputs = interactions * (pin + query) + objective.random_negatives * pin
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
    """FLOP/s of large square matrix products on ``device``: the ceiling that utilisation is relative to."""
    dtype = torch.bfloat16 if precision is Precision.BF16 else torch.float32
    n = 8192 if device.type == "cuda" else 1024
    matrix = torch.ones(n, n, dtype=dtype, device=device)
    result = torch.empty_like(matrix)
    _multiply(matrix, result)
    products, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < MEASURE_SECONDS or products == 0:
        _multiply(matrix, result)
        products += 1
    return 2.0 * n**3 * products / elapsed


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
