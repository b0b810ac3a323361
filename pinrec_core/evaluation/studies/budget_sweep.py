"""Budget sweeps: what N served items recall, and what they are, as the budget moves from one outcome to another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.errors import ConfigError, DataError, require
from pinrec_core.evaluation.cases import SERVED_ITEMS, EvaluationCase
from pinrec_core.evaluation.held_out import BATCH_USERS, batches
from pinrec_core.evaluation.subjects import ModelSubject
from pinrec_core.history import NO_OUTCOME, History

SHARES = tuple(round(0.1 * tenths, 1) for tenths in range(11))


def count_outcomes(histories: Iterable[History], catalogue: ItemCatalogue, outcomes: int) -> np.ndarray:
    """Training interactions by item and outcome, int64 ``[V, O]``."""
    count = np.zeros((len(catalogue), outcomes), np.int64)
    for history in histories:
        row = catalogue.rows_of(history.item_key)
        known = (row >= 0) & (history.outcome != NO_OUTCOME)
        np.add.at(count, (row[known], history.outcome[known]), 1)
    return count


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """One budget of the sweep."""

    share: float  # of the outcome that the budget moves to
    served_recall: float
    served_recall_by_outcome: dict[str, float]  # of the targets whose true outcome it is
    served_mix: dict[str, float]  # share of the served items that each outcome's embeddings brought: the quotas
    logged_mix: dict[str, float]  # what training users did with the served items: the mix to expect

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def sweep_budget(
    subject: ModelSubject,
    cases: Iterable[EvaluationCase],
    *,
    from_outcome: int,
    to_outcome: int,
    item_outcomes: np.ndarray,
    shares: Sequence[float] = SHARES,
    num_items: int = SERVED_ITEMS,
    exclude_seen: bool = False,
    batch: int = BATCH_USERS,
    report: Callable[[int], None] = lambda _: None,
) -> list[SweepPoint]:
    """One point per share of ``to_outcome``; ``from_outcome`` has the rest of the budget.

    ``item_outcomes`` ``[V, O]`` counts training interactions by item and outcome (``count_outcomes``). Raises
    ``ConfigError`` for a model that is not conditioned on outcomes or an outcome that is not there.
    """
    indexed = subject.indexed
    names = indexed.dataset.outcomes
    O = len(names)
    require(indexed.model.config.num_conditions == O and O > 1, "variant", str(indexed.model.config.variant),
            "a model conditioned on several outcomes", error=ConfigError)  # fmt: skip
    for name, outcome in {"from_outcome": from_outcome, "to_outcome": to_outcome}.items():
        require(0 <= outcome < O, name, outcome, f"one of 0..{O - 1}", error=ConfigError)
    tallies = [_Tally(O) for _ in shares]
    likely = item_outcomes / np.maximum(item_outcomes.sum(axis=1, keepdims=True), 1)
    for part in batches(cases, batch):
        for share, tally in zip(shares, tallies, strict=True):
            budget = np.zeros(O)
            budget[from_outcome] += 1 - share
            budget[to_outcome] += share
            requests = [case.request(budget, num_items=num_items, exclude_seen=exclude_seen) for case in part]
            answers = indexed.answer(requests)
            for case, answer in zip(part, answers, strict=True):
                hit = np.isin(case.target_row, answer.item_row)
                tally.add(hit, case.target_outcome, answer.outcome, likely[answer.item_row])
        report(len(part))
    return [tally.point(share, names) for share, tally in zip(shares, tallies, strict=True)]


class _Tally:
    """Sums over users for one budget."""

    def __init__(self, outcomes: int) -> None:
        self._hits, self._targets, self._served, self._logged = (np.zeros(outcomes) for _ in range(4))

    def add(self, hit: np.ndarray, true: np.ndarray, served: np.ndarray, likely: np.ndarray) -> None:
        O = len(self._hits)
        self._hits += np.bincount(true, weights=hit, minlength=O)
        self._targets += np.bincount(true, minlength=O)
        self._served += np.bincount(served, minlength=O)
        self._logged += likely.sum(axis=0)

    def point(self, share: float, names: Sequence[str]) -> SweepPoint:
        if not self._targets.sum():
            raise DataError("no case: expected at least one user to judge")
        by_outcome = zip(names, self._hits, self._targets, strict=True)
        return SweepPoint(
            share=share,
            served_recall=float(self._hits.sum() / self._targets.sum()),
            served_recall_by_outcome={name: float(hits / targets) for name, hits, targets in by_outcome if targets},
            served_mix=_mix(names, self._served),
            logged_mix=_mix(names, self._logged),
        )


def _mix(names: Sequence[str], amount: np.ndarray) -> dict[str, float]:
    return dict(zip(names, (amount / max(amount.sum(), 1e-12)).tolist(), strict=True))
