"""Confidence intervals by resampling users (Efron's percentile bootstrap).

Whole users are drawn, because the targets of one user are not independent of one another. Two subjects judged on the
same users are resampled together, so that differences between users cancel out of their ratio. Several seeds of a
training are averaged per user first; the interval then says how the mean over these seeds would move with other users,
not with other seeds.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
_DRAWS_AT_ONCE = 1 << 22  # users drawn in one block of resamples; bounds memory to tens of MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with the bounds of its 95% confidence interval: infinite for x/0, NaN for 0/0."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """Plain data; None for what is not a finite number, which JSON lacks."""
        return {name: number if math.isfinite(number) else None for name, number in asdict(self).items()}


def mean_interval(
    value: np.ndarray, weight: np.ndarray | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The mean over users of ``value`` ``[users]`` or ``[seeds, users]``.

    With ``weight`` of the same shape it is Σ value / Σ weight, for shares whose number of trials differs between
    users: hits and targets of one outcome.
    """
    return ratio_interval(value, np.ones(np.shape(value)) if weight is None else weight, resamples=resamples, seed=seed)


def ratio_interval(value: np.ndarray, baseline: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Σ value / Σ baseline over the same users, paired: ``[users]`` or ``[seeds, users]`` each.

    The two may differ in their number of seeds. Raises ``ValueError`` when they differ in users.
    """
    value, baseline = _by_user(value), _by_user(baseline)
    if value.shape != baseline.shape or not len(value):
        raise ValueError(f"baseline has {len(baseline)} users: expected {len(value)} as value has, and at least one")
    generator = np.random.default_rng(seed)
    users = len(value)
    block = max(1, _DRAWS_AT_ONCE // users)
    ratios = []
    for start in range(0, resamples, block):
        drawn = generator.integers(0, users, size=(min(block, resamples - start), users))
        ratios.append(_divide(value[drawn].sum(axis=1), baseline[drawn].sum(axis=1)))
    found = np.concatenate(ratios)
    found = found[~np.isnan(found)]  # 0/0: this resample holds no information
    if not len(found):
        return Interval(value=math.nan, low=math.nan, high=math.nan)
    # Without interpolation, which infinite ratios do not allow.
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return Interval(value=float(_divide(value.sum(), baseline.sum())), low=float(low), high=float(high))


def _by_user(values: np.ndarray) -> np.ndarray:
    """float64 ``[users]``, the mean over seeds where there are any."""
    values = np.asarray(values, np.float64)
    return values if values.ndim == 1 else values.mean(axis=0)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):  # 0/0 becomes NaN and x/0 infinite, which the caller expects
        return np.divide(numerator, denominator)
