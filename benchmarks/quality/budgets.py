"""The measures of a sweep of budgets: what the arrays of its users are called, and what is made of them.

An *arm* is one budget of the sweep, named by the share of the outcome that the budget moves to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.quality.measures import Measure
from pinrec_core.evaluation.studies.budget_sweep import SweepPoint

BUDGET = "budget"
"""The kind of evaluation."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One budget of one run's sweep."""

    run: str
    share: float

    def delivered(self, by: str, outcome: str) -> Measure:
        """Share of the served items that count for the outcome, ``by`` ``"own"`` embeddings or the ``"logged"`` rates.

        An item that no training user had to do with counts for no outcome of the log.
        """
        return self._measure(f"{by}_items_{outcome}", per=f"{by}_items")

    def recall(self) -> Measure:
        """Served recall of all targets."""
        return self._measure("served_hit")

    def recall_of(self, outcome: str) -> Measure:
        """Served recall of the targets that truly had the outcome."""
        return self._measure(f"served_hits_{outcome}", per=f"served_targets_{outcome}")

    def measures(self, outcomes: tuple[str, ...]) -> list[Measure]:
        return [
            self.recall(),
            *(self.recall_of(outcome) for outcome in outcomes),
            *(self.delivered(by, outcome) for by in ("own", "logged") for outcome in outcomes),
        ]

    def _measure(self, what: str, per: str | None = None) -> Measure:
        return Measure(
            run=self.run, evaluation=BUDGET, name=_array(what, self.share),
            per=None if per is None else _array(per, self.share),
        )  # fmt: skip


def arrays(point: SweepPoint, swept: tuple[str, ...]) -> Mapping[str, np.ndarray]:
    """The values of single users behind the measures of one arm, for the two outcomes that it is ``swept`` between."""
    found = {"served_hit": point.hit}
    for by, items in {"own": point.own, "logged": point.logged}.items():
        found[f"{by}_items"] = items.sum(axis=1)
        found |= {f"{by}_items_{name}": items[:, point.outcomes.index(name)] for name in swept}
    for name in swept:
        is_true = point.target_outcome == point.outcomes.index(name)
        found[f"served_hits_{name}"] = (point.hit & is_true).sum(axis=1)
        found[f"served_targets_{name}"] = is_true.sum(axis=1)
    return {_array(what, point.share): values for what, values in found.items()}


def _array(what: str, share: float) -> str:
    return f"{what}_at_{share:g}"
