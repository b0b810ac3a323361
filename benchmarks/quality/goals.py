"""A claim about a study: figures, what they are beside, and the goal. It makes a row of ``docs/results/summary.json``.

Which claims there are, this module does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.quality.measures import Measure
from benchmarks.quality.protocols import protocol, run_again
from benchmarks.quality.results import StudyResult
from benchmarks.quality.study import Times


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a figure has to reach: ``of`` says whether its ratio to the baseline or the value itself is meant."""

    compare: str  # ">=", ">", "<=", "<" or "within"
    bound: float  # for "within", the largest |ratio − 1|
    of: str = "ratio"  # or "value"

    def __str__(self) -> str:
        if self.compare == "within":
            return f"within {self.bound:.1%}"
        return f"{self.compare} {self.bound:g}{'x' if self.of == 'ratio' else ''}"

    def is_reached(self, row: dict[str, Any]) -> bool | None:
        """Whether the row's figure reaches the goal; None where it has no figure, as the ratio to a baseline of 0."""
        value = row[self.of]
        return None if value is None else self._holds(value)

    def is_certain(self, row: dict[str, Any]) -> bool | None:
        """Whether the whole 95% interval lies on the same side of the goal as the figure; None without an interval."""
        if row["ci95"] is None:
            return None
        if None in row["ci95"]:
            return False
        low, high = (bound * (row["baseline_value"] if self.of == "value" else 1) for bound in row["ci95"])
        if self.compare == "within" and not self._holds(row[self.of]):
            return bool(low > 1 + self.bound or high < 1 - self.bound)
        return self._holds(low) == self._holds(high) == self._holds(row[self.of])

    def _holds(self, value: float) -> bool:
        return {
            ">=": value >= self.bound, ">": value > self.bound, "<=": value <= self.bound, "<": value < self.bound,
            "within": abs(value - 1) <= self.bound,
        }[self.compare]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A figure that somebody else has published."""

    source: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One figure beside its baseline. A claim without a goal is shown for comparison only.

    The claims of a ``group`` share a section of the report. Where ``only_with`` is set, this claim counts as reached
    only if that other claim is reached too, and has no goal where that one has none.

    In a row, ``ci95`` is the interval of the ratio, which says what other users would have given; ``by_seed`` is what
    each seed gave. ``ci95`` is None where the figures are not means over users, and one of its bounds is None where
    some resampled users give a baseline of 0.
    """

    group: str
    claim: str
    study: str
    metric: str
    of: Measure
    against: Measure | Published
    goal: Goal | None
    overview: bool = False  # whether the table at the top of the report shows it
    only_with: Claim | None = None
    least_targets: int = 0  # with fewer of them in the judged users there is no goal
    needs_times: bool = False  # whether there is no goal where the log's times are days

    def row(self, result: StudyResult) -> dict[str, Any] | None:
        """The claim's row of the summary; None where it has not been measured."""
        if isinstance(self.against, Published):
            found = result.figure(self.of)
            if found is None:
                return None
            bounds = found["ci95"]
            compared = {
                "value": found["value"], "baseline": self.against.source, "baseline_value": self.against.value,
                "ratio": found["value"] / self.against.value,
                "ci95": None if bounds is None else [bound / self.against.value for bound in bounds],
                "seeds": found["seeds"], "by_seed": found["by_seed"], "baseline_by_seed": [],
                "targets": found["targets"],
            }  # fmt: skip
        else:
            paired = result.comparison(self.of, self.against)
            if paired is None:
                return None
            # A counting baseline draws nothing at random, so that one seed of it is enough.
            counts = result.runs[self.against.run]["recommender"] is not None
            compared = {
                "value": paired["value"], "baseline": _name(self.against, self.of, result),
                "baseline_value": paired["baseline_value"], "ratio": paired["ratio"], "ci95": paired["ci95"],
                "seeds": paired["seeds"] if counts else min(paired["seeds"], paired["baseline_seeds"]),
                "by_seed": paired["by_seed"], "baseline_by_seed": paired["baseline_by_seed"],
                "targets": paired["targets"],
            }  # fmt: skip
        return _row(self, self.of.evaluation, result, compared, self._goal(result, compared["targets"]), self.only_with)

    @property
    def measures(self) -> list[Measure]:
        """What has to be measured for it."""
        return [self.of, *([self.against] if isinstance(self.against, Measure) else [])]

    def _goal(self, result: StudyResult, targets: int | None) -> Goal | None:
        """The goal, where this study can decide it."""
        too_few = targets is not None and targets < self.least_targets
        return None if too_few or (self.needs_times and result.times is Times.DAYS) else self.goal


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A figure with its value in each seed. It is made of others, so that it has no interval."""

    value: float
    by_seed: list[float]
    seeds: int
    targets: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A claim about one figure that is made of several others, such as the largest of them; nothing is beside it."""

    group: str
    claim: str
    study: str
    metric: str
    evaluation: str
    measures: Sequence[Measure]
    make: Callable[[StudyResult], Found | None]  # None where it has not been measured
    goal: Goal  # of the value
    overview: bool = False

    def row(self, result: StudyResult) -> dict[str, Any] | None:
        """As that of a ``Claim``, without a baseline."""
        found = self.make(result)
        if found is None:
            return None
        compared = {
            "value": found.value, "baseline": "", "baseline_value": None, "ratio": None, "ci95": None,
            "seeds": found.seeds, "by_seed": found.by_seed, "baseline_by_seed": [], "targets": found.targets,
        }  # fmt: skip
        return _row(self, self.evaluation, result, compared, self.goal)


AnyClaim = Claim | Summary


def _row(
    claim: AnyClaim,
    evaluation: str,
    result: StudyResult,
    compared: dict[str, Any],
    goal: Goal | None,
    only_with: Claim | None = None,
) -> dict[str, Any]:
    """The row of a claim, judged by ``goal``; of one that counts ``only_with`` another, by both goals or by none."""
    needed = None if only_with is None else only_with.row(result)
    if needed is not None and needed["goal"] is None:
        goal = None
    row = {
        "claim": claim.claim, "dataset": result.name, "protocol": protocol(result, evaluation),
        "metric": claim.metric + _embeddings(claim.metric, evaluation, result), **compared,
        "goal": None if goal is None else str(goal),
        "command": run_again(claim.study),
    }  # fmt: skip
    if goal is None:
        return row | {"reached": None, "certain": None}
    reached, certain = goal.is_reached(row), goal.is_certain(row)
    if reached and only_with is not None:
        reached = needed is not None and needed["reached"]
        certain = certain and needed is not None and needed["certain"]
    return row | {"reached": reached, "certain": certain}


def _name(against: Measure, of: Measure, result: StudyResult) -> str:
    """The name of a baseline: its run, or what differs where both sides are of the same run."""
    title = result.runs[against.run]["title"]
    if against.evaluation.startswith("steps-") and of.evaluation != against.evaluation:
        return f"{title}, {against.evaluation.removeprefix('steps-')} per step"
    return title if against.run != of.run else f"{title} in FP32"


def _embeddings(metric: str, evaluation: str, result: StudyResult) -> str:
    """The number of embeddings behind a recall at k per embedding, which depends on it; empty for other metrics."""
    settings = result.plain["evaluation"]
    E = {
        "held_out": settings["embeddings"], "held_out_offline": settings["embeddings"],
        "precision": settings["embeddings"],
        "controllability": settings["outcome_embeddings"],
    }.get(evaluation)  # fmt: skip
    return f", E={E}" if E is not None and metric.startswith("unordered recall@") else ""
