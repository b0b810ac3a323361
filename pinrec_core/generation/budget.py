"""Budget allocation (PinRec, generation): N items over outcomes, then over the kept embeddings of each outcome.

Outcome a receives B(a)·N items; inside it, an embedding's quota is proportional to the weight that it and those merged
into it have. Both are rounded so that the quotas sum to N exactly.
"""

from __future__ import annotations

import numpy as np

from pinrec_core.config.sections import Allocation


def allocate(
    budget: np.ndarray,
    weight: np.ndarray,
    num_items: int,
    allocation: Allocation = Allocation.DETERMINISTIC,
    seed: int = 0,
) -> np.ndarray:
    """Budget float ``[O]`` summing to 1 and weights of embeddings ``[O, n]`` → quotas int64 ``[O, n]`` summing to N.

    An embedding of weight 0 gets nothing; an outcome's quotas sum to its share of N.
    """
    generator = np.random.default_rng(seed)
    per_outcome = _apportion(budget, num_items, allocation, generator)
    return np.stack([_apportion(w, int(n), allocation, generator) for w, n in zip(weight, per_outcome, strict=True)])


def _apportion(weight: np.ndarray, total: int, allocation: Allocation, generator: np.random.Generator) -> np.ndarray:
    """``total`` whole units in proportion to ``weight`` ``[n]`` (not all zero): int64 ``[n]``."""
    weight = np.asarray(weight, np.float64)
    exact = weight / weight.sum() * total
    # A weight such as .3 is a little off in binary; without the allowance 0.3·10 could lose a unit to another.
    whole = np.floor(exact + 1e-6).astype(np.int64)
    left = total - int(whole.sum())
    remainder = np.where(weight > 0, exact - whole, -1.0)
    if allocation is Allocation.STOCHASTIC:
        return whole + _systematic_draw(np.maximum(remainder, 0.0), left, generator)
    largest = np.argsort(-remainder.round(9), kind="stable")[:left]  # equal remainders go to the earlier one
    whole[largest] += 1
    return whole


def _systematic_draw(share: np.ndarray, units: int, generator: np.random.Generator) -> np.ndarray:
    """``units`` drawn so that entry i receives ``share[i]`` in expectation (shares below 1, summing to ``units``)."""
    if units == 0:
        return np.zeros(len(share), np.int64)
    edges = np.cumsum(share) * (units / share.sum())
    edges[-1] = units
    ticks = np.floor(edges - generator.random()).astype(np.int64) + 1
    return np.diff(np.clip(ticks, 0, units), prepend=0)
