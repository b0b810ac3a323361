"""Checks what passes between the stages, when a stage receives it.

The model of every stage can be called by whoever reaches the port, not by the ensemble alone. So a stage takes nothing
on trust that would reach an embedding lookup, an allocation or a random generator: it is checked against the release
first. All checks are on whole arrays, and cost a request some 30 µs together.

Every function raises ``InvalidRequestError``, which names the field.
"""

from __future__ import annotations

import numpy as np

from pinrec_core import limits
from pinrec_core.config.sections import GenerationConfig, ModelConfig
from pinrec_core.contract import BUDGET_TOLERANCE
from pinrec_core.errors import InvalidRequestError, require
from pinrec_core.generation.retrieval_plan import RetrievalPlan
from pinrec_core.history import History, ItemType
from pinrec_core.request import Request

UNIT_TOLERANCE = 1e-2
"""How far the length of an embedding may be from 1. A unit vector in FP16 is off by 5e-4 at most."""

_MAX_SCALE = float(np.float32(limits.FEATURE_VALUE.most / 127))
"""The scale of an INT8 vector with the largest value that is allowed, rounded as it travels."""
_FP16_EXPONENT = 0x7C00  # all bits set: infinite, or not a number


def check_request(request: Request, model: ModelConfig, generation: GenerationConfig) -> None:
    """A request as ``decode_request`` makes it fits the model."""
    check_history(request.history, model)
    least, most = limits.NUM_ITEMS.least, generation.max_num_items
    require(least <= request.num_items <= most, "packed_request num_items", request.num_items, f"{least} to {most}")
    require(0 <= request.surface < model.num_surfaces, "packed_request surface", request.surface,
            f"0 to {model.num_surfaces - 1}")  # fmt: skip
    require(0 <= request.time <= limits.REQUEST_TIME.most, "packed_request time", request.time,
            f"0 to {limits.REQUEST_TIME.most}")  # fmt: skip
    if request.strength is not None:
        most = limits.STRENGTH.most
        require(0 <= request.strength <= most, "packed_request strength", request.strength, f"0 to {most}")
    require(request.seed >= limits.SEED.least, "packed_request seed", request.seed, "a number of at least 0")
    budget, O = request.budget, model.num_conditions
    if len(budget) != O:
        raise InvalidRequestError(f"packed_request budget has {len(budget)} weights: expected {O}")
    total = float(budget.sum())  # not a number where a weight is not
    if not (budget.min() >= 0 and abs(total - 1) <= BUDGET_TOLERANCE):
        raise InvalidRequestError(f"packed_request budget={budget.tolist()}: expected weights of at least 0, sum 1")


def check_history(history: History, model: ModelConfig) -> None:
    """A history has the width of the model, at most ``max_history`` positions, and numbers that the model knows."""
    T, F = history.feature.shape
    if F != model.feature_width:
        raise InvalidRequestError(f"history feature has width {F}: expected {model.feature_width}")
    if T > model.max_history:
        raise InvalidRequestError(f"history has T={T}: expected at most {model.max_history}")
    if T == 0:
        return
    _check_range(history.surface, "surface", model.num_surfaces - 1)
    _check_range(history.item_type, "item_type", max(ItemType))
    _check_range(history.timestamp, "timestamp", limits.REQUEST_TIME.most)
    _check_range(history.scale, "scale", _MAX_SCALE)


def check_id_embedding(id_embedding: np.ndarray, T: int, model: ModelConfig) -> None:
    """FP16 ``[T, I]`` without a value that is not finite."""
    expected = (T, model.id_width)
    if id_embedding.shape != expected:
        raise InvalidRequestError(
            f"history_id_embedding has shape {list(id_embedding.shape)}: expected {list(expected)}"
        )
    # On the bits: NumPy's isfinite takes ten times as long for FP16.
    if id_embedding.size and (id_embedding.view(np.uint16) & _FP16_EXPONENT).max() == _FP16_EXPONENT:
        raise InvalidRequestError("history_id_embedding holds a value that is not finite: expected finite values")


def check_plan(plan: RetrievalPlan, *, width: int, outcomes: int, generation: GenerationConfig) -> None:
    """A plan that a generator of this release can have made: ``outcomes`` is what the head distinguishes."""
    M, D = plan.embedding.shape
    if D != width:
        raise InvalidRequestError(f"embedding has width {D}: expected {width}")
    limits.EMBEDDINGS.check(M, "retrieval_plan", generation.steps * outcomes * len(generation.offsets))
    length = np.einsum("md,md->m", plan.embedding, plan.embedding)  # squared, like the tolerance
    if not (np.abs(length - 1) <= 2 * UNIT_TOLERANCE).all():
        raise InvalidRequestError("retrieval_plan embedding is not of length 1: expected unit vectors of finite values")
    if plan.outcome.min() < 0 or plan.outcome.max() >= outcomes:
        raise InvalidRequestError(f"retrieval_plan outcome={plan.outcome.tolist()}: expected 0 to {outcomes - 1}")
    total = int(plan.quota.sum(dtype=np.int64))
    if plan.quota.min() < 1 or total > generation.max_num_items:
        raise InvalidRequestError(
            f"retrieval_plan quota={plan.quota.tolist()}: expected numbers of at least 1, "
            f"whose sum is at most {generation.max_num_items}"
        )


def _check_range(values: np.ndarray, name: str, most: float) -> None:
    if not (values.min() >= 0 and values.max() <= most):  # NaN is neither
        position = int(np.argmax(~((values >= 0) & (values <= most))))
        require(False, f"history {name}[{position}]", values[position].item(), f"0 to {most:g}")
