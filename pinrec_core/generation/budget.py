"""Budget allocation (PinRec, generation): N items over outcomes, then over the kept embeddings of each outcome.

Outcome a receives B(a)·N items; inside it, an embedding's quota is proportional to the weight that it and those merged
into it have. Both are rounded so that the quotas sum to N exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pinrec_core.config.sections import Allocation
from pinrec_core.generation.draws import Draw, random_stream


def allocate(
    budget: np.ndarray,
    weight: np.ndarray,
    num_items: Sequence[int],
    allocation: Allocation,
    seed: Sequence[int],
) -> np.ndarray:
    """Budgets float ``[B, O]`` that sum to 1 and weights of embeddings ``[B, O, n]`` → quotas int64 ``[B, O, n]``.

    The quotas of request b sum to ``num_items[b]``, and those of an outcome to its share of that. An embedding of
    weight 0 gets nothing. ``seed`` of each request decides what a stochastic allocation draws.
    """
    B, O, n = weight.shape
    generators = None
    if allocation is Allocation.STOCHASTIC:
        generators = [random_stream(one, Draw.ALLOCATION) for one in seed]
    per_outcome = _apportion(budget, np.asarray(num_items), generators)
    each = None if generators is None else [generator for generator in generators for _ in range(O)]
    return _apportion(weight.reshape(B * O, n), per_outcome.reshape(B * O), each).reshape(B, O, n)


def _apportion(weight: np.ndarray, total: np.ndarray, generators: Sequence[np.random.Generator] | None) -> np.ndarray:
    """``total[r]`` whole units in proportion to ``weight[r]`` ``[n]`` (not all zero) in each row: int64 ``[R, n]``."""
    weight = np.asarray(weight, np.float64)
    exact = weight / weight.sum(axis=1, keepdims=True) * total[:, None]
    # A weight such as .3 is a little off in binary; without the allowance 0.3·10 could lose a unit to another.
    whole = np.floor(exact + 1e-6).astype(np.int64)
    left = total - whole.sum(axis=1)
    remainder = np.where(weight > 0, exact - whole, -1.0)
    if generators is not None:
        share = np.maximum(remainder, 0.0)
        # Arrays of NumPy: the plan is made on the host, where `plan_retrieval` has copied the weights once per batch.
        drawn = [_systematic_draw(*row) for row in zip(share, left.tolist(), generators, strict=True)]
        return whole + np.stack(drawn)
    largest = np.argsort(-remainder.round(9), axis=1, kind="stable")  # equal remainders go to the earlier one
    rank = np.empty_like(largest)
    np.put_along_axis(rank, largest, np.arange(weight.shape[1])[None], axis=1)
    return whole + (rank < left[:, None])


def _systematic_draw(share: np.ndarray, units: int, generator: np.random.Generator) -> np.ndarray:
    """``units`` drawn so that entry i receives ``share[i]`` in expectation (shares below 1, summing to ``units``)."""
    if units == 0:
        return np.zeros(len(share), np.int64)
    edges = np.cumsum(share) * (units / share.sum())
    edges[-1] = units
    ticks = np.floor(edges - generator.random()).astype(np.int64) + 1
    return np.diff(np.clip(ticks, 0, units), prepend=0)
