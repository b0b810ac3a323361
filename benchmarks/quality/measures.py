"""Measures: one number of one run, made of what the users contributed in each seed.

A measure that is a mean over users has a confidence interval, by resampling users with the seeds pooled, and two such
measures are compared on the same users. Any other measure, such as diversity or a latency, is the mean of the seeds and
has no interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pinrec_core.errors import DataError
from pinrec_core.evaluation.bootstrap import Interval, mean_interval
from pinrec_core.evaluation.result import EQUAL_DISTINCT_ITEMS, EvaluationResult, compare, cut_to, stack

Seeds = Mapping[int, EvaluationResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """``name`` is an array of the evaluation, or the dotted path of one of its metrics."""

    run: str
    evaluation: str  # as its users' results are named: held_out, steps-16 …
    name: str
    per: str | None = None  # the array with the number of trials per user, where that differs

    @property
    def key(self) -> str:
        return f"{self.run}:{self.evaluation}:{self.name}"


def figure(measure: Measure, seeds: Seeds) -> dict[str, Any]:
    """The mean over seeds, its interval where there is one, the value of every seed, and the number of targets."""
    results = list(seeds.values())
    interval = None
    if _is_over_users(measure, results[0]):
        trials = None if measure.per is None else stack(results, measure.per)
        interval = mean_interval(stack(results, measure.name), trials)
    by_seed = [_value(measure, result) for result in results]
    return {
        "value": _mean(by_seed), "ci95": _bounds(interval), "seeds": len(seeds), "by_seed": by_seed,
        "targets": _targets(measure, results[0]),
    }  # fmt: skip


def comparison(of: Measure, against: Measure, seeds: Seeds, baseline_seeds: Seeds) -> dict[str, Any]:
    """Both values and their ratio. Raises ``DataError`` where they were not judged on the same users."""
    first, other = list(seeds.values()), list(baseline_seeds.values())
    if against.name == EQUAL_DISTINCT_ITEMS:
        other = [cut_to(one_list, seeds.get(seed, first[0])) for seed, one_list in baseline_seeds.items()]
    interval = None
    if _is_over_users(of, first[0]) and _is_over_users(against, other[0]):
        interval = compare(first, other, of.name, baseline_name=against.name)
    by_seed, baseline_by_seed = ([_value(m, r) for r in of_seeds] for m, of_seeds in ((of, first), (against, other)))
    value, baseline = _mean(by_seed), _mean(baseline_by_seed)
    return {
        "value": value, "baseline_value": baseline, "ratio": value / baseline if baseline else None,
        "ci95": _bounds(interval), "seeds": len(first), "baseline_seeds": len(other),
        "by_seed": by_seed, "baseline_by_seed": baseline_by_seed, "targets": _targets(of, first[0]),
    }  # fmt: skip


def _mean(by_seed: Sequence[float]) -> float:
    return float(np.mean(by_seed))


def _value(measure: Measure, result: EvaluationResult) -> float:
    if _is_over_users(measure, result):
        trials = 1.0 if measure.per is None else result.per_user(measure.per).mean()
        return float(result.per_user(measure.name).mean() / trials) if trials else 0.0
    found: Any = result.metrics
    for part in measure.name.split("."):
        if part not in found:
            raise DataError(f"{measure.key}: expected an array or a metric of that name")
        found = found[part]
    return float(found)


def _targets(measure: Measure, result: EvaluationResult) -> int | None:
    """The number of targets, or other trials, behind a mean over users. It is the same for every seed."""
    if not _is_over_users(measure, result):
        return None
    return result.arrays[measure.name].size if measure.per is None else int(result.arrays[measure.per].sum())


def _is_over_users(measure: Measure, result: EvaluationResult) -> bool:
    return measure.name in result.arrays


def _bounds(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
