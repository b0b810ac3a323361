"""Budget sweeps: what N served items recall, and what they are, as the budget moves from one outcome to another.

What they are is said twice. *By own embeddings* an item counts for the outcome of the embedding that brought it, as the
request's plan names that outcome: this is what the serving path has in its hand. *By the log's rates* an item counts
for every outcome by the share of its training interactions that had it, which is what users may be expected to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.errors import ConfigError, DataError, require
from pinrec_core.evaluation.cases import SERVED_ITEMS, EvaluationCase
from pinrec_core.evaluation.held_out import BATCH_USERS, batches
from pinrec_core.evaluation.subjects import ModelSubject
from pinrec_core.generation.planning import plan_retrieval
from pinrec_core.generation.retrieval_plan import RetrievalPlan
from pinrec_core.history import NO_OUTCOME, History
from pinrec_core.retrieval.ranked_items import RankedItems

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""The five budgets of PinRec's experiment, and the one that is all on the other outcome."""


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
    """One budget of the sweep, with what every user was served under it."""

    share: float  # of the outcome that the budget moves to
    outcomes: tuple[str, ...]
    hit: np.ndarray  # bool [users, Z], the targets among the served items
    target_outcome: np.ndarray  # int [users, Z], the true ones
    own: np.ndarray  # int64 [users, O], served items by the outcome of the embedding that brought them
    logged: np.ndarray  # float64 [users, O], served items by what training users did with them

    @property
    def served_recall(self) -> float:
        return float(self.hit.mean())

    @property
    def served_recall_by_outcome(self) -> dict[str, float]:
        """Of the targets whose true outcome it is; without the outcomes that no target has."""
        is_true = {name: self.target_outcome == outcome for outcome, name in enumerate(self.outcomes)}
        return {name: float(self.hit[chosen].mean()) for name, chosen in is_true.items() if chosen.any()}

    @property
    def own_mix(self) -> dict[str, float]:
        """Share of the served items that each outcome's own embeddings brought."""
        return self._mix(self.own)

    @property
    def logged_mix(self) -> dict[str, float]:
        """What training users did with the served items: the mix to expect."""
        return self._mix(self.logged)

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data, without the values of single users."""
        names = ("share", "served_recall", "served_recall_by_outcome", "own_mix", "logged_mix")
        return {name: getattr(self, name) for name in names}

    def _mix(self, amount: np.ndarray) -> dict[str, float]:
        total = amount.sum(axis=0)
        return dict(zip(self.outcomes, (total / max(total.sum(), 1e-12)).tolist(), strict=True))


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
    likely = item_outcomes / np.maximum(item_outcomes.sum(axis=1, keepdims=True), 1)
    served: list[list[_Served]] = [[] for _ in shares]
    target_outcome: list[np.ndarray] = []
    for part in batches(cases, batch):
        target_outcome += [case.target_outcome for case in part]
        for share, users in zip(shares, served, strict=True):
            budget = np.zeros(O)
            budget[from_outcome] += 1 - share
            budget[to_outcome] += share
            requests = [case.request(budget, num_items=num_items, exclude_seen=exclude_seen) for case in part]
            embedding = indexed.generate(requests)
            # The same plans that ``retrieve`` makes: they depend on nothing else. An answer names embeddings of them.
            plans = plan_retrieval(embedding, requests, indexed.generation)
            answers = indexed.retrieve(embedding, requests)
            users += [_served(*user, likely) for user in zip(part, plans, answers, strict=True)]
        report(len(part))
    if not target_outcome:
        raise DataError("no case: expected at least one user to judge")
    return [
        SweepPoint(
            share=share, outcomes=tuple(names), hit=np.stack([user.hit for user in users]),
            target_outcome=np.stack(target_outcome), own=np.stack([user.own for user in users]),
            logged=np.stack([user.logged for user in users]),
        )
        for share, users in zip(shares, served, strict=True)
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Served:
    """What one user was served under one budget; the fields are rows of ``SweepPoint``."""

    hit: np.ndarray
    own: np.ndarray
    logged: np.ndarray


def _served(case: EvaluationCase, plan: RetrievalPlan, answer: RankedItems, likely: np.ndarray) -> _Served:
    """``likely`` ``[V, O]`` is the share of each outcome in an item's training interactions."""
    # Not ``answer.outcome``: some merge rules share items out after they were chosen, whatever brought them.
    brought_by = plan.outcome[answer.embedding]
    return _Served(
        np.isin(case.target_row, answer.item_row),
        np.bincount(brought_by, minlength=likely.shape[1]),
        likely[answer.item_row].sum(axis=0),
    )
