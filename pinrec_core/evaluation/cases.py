"""Who is judged on what: a user's history up to a cut, and the items that the user acted on after it.

There are three protocols. *Held out* takes users whom training never saw, chosen by a hash of their id, and asks for
their last Z distinct items; a quarter of these users is for validation, the others are for figures. *Cold* takes the
same users, asks for their first Z distinct items and gives no history at all. *Leave one out* takes every user and asks
for one item at the end of the history.

What happened after the cut is in a case as its targets only. The request of a case has the surface and time of the
first target or, in ``ahead_of_request``, those of the last item before it. Cases are streamed; only a sample of users,
where one is asked for, is held in memory at once. A case is a copy and keeps no file chunk in memory.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import SEQUENCES
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.dataset.splits import is_evaluation_user, is_validation_user, sampling_order, without_last
from pinrec_core.errors import ConfigError, require
from pinrec_core.generation.draws import seed_of
from pinrec_core.history import NO_OUTCOME, History
from pinrec_core.request import Request

LONGEST_HISTORY = 1024
"""The most interactions of a history that a case keeps, which is more than any model reads. ``seen_row`` covers the
whole history all the same."""


SERVED_ITEMS = 100
"""N of a request, unless an evaluation asks for another number."""
ANY_BUDGET = np.ones(1)
"""Of requests to what knows no outcomes: a counting baseline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationCase:
    """One user: the history up to the cut, and the Z target items after it."""

    user_id: int | str
    history: History
    seen_row: np.ndarray  # int64 [X], ascending: catalogue rows of all items before the cut
    target_row: np.ndarray  # int64 [Z]
    target_outcome: np.ndarray  # int16 [Z]
    target_surface: np.ndarray  # int16 [Z]
    request_surface: int
    request_time: int

    def request(
        self, budget: np.ndarray = ANY_BUDGET, *, num_items: int = SERVED_ITEMS, exclude_seen: bool = False
    ) -> Request:
        """The request that asks for the targets. Its random draws are those of a request that names no seed."""
        seen: dict[str, Any] = {"seen_row": self.seen_row} if exclude_seen else {}
        return Request(
            history=self.history,
            surface=self.request_surface,
            time=self.request_time,
            seed=seed_of(self.user_id, self.request_time),
            budget=budget,
            num_items=num_items,
            **seen,
        )


def held_out_cases(
    dataset: Path,
    catalogue: ItemCatalogue,
    *,
    share: float,
    targets: int,
    cold: bool = False,
    validation: bool = False,
    earlier: int = 0,
    max_users: int | None = None,
) -> Iterator[EvaluationCase]:
    """Held-out users with their last ``targets`` distinct items and at least one interaction before these.

    ``cold`` takes their first distinct items instead, and leaves nothing known of the user but surface and time. With
    ``earlier`` a user's case is that of as many requests ago: all behind the cut of the later ones is forgotten.
    ``catalogue`` is that of the index to be judged, whose rows the cases hold. ``max_users`` of the users, if given,
    are chosen by hash. Raises ``ConfigError`` for a number below 1.
    """
    _check(targets=targets, max_users=max_users)

    def cases() -> Iterator[EvaluationCase]:
        for user_id, whole in _held_out(dataset, share, validation):
            history = whole
            for _ in range(earlier):
                history = history.take(slice(0, _last_cut(history, catalogue, targets)))
            position, row = _targets(history, catalogue)
            chosen = np.sort(np.unique(row, return_index=True)[1])[:targets] if cold else _last_distinct(row, targets)
            if len(chosen) == targets and (cold or position[chosen[0]] > 0):
                yield _case(user_id, history, catalogue, position[chosen], row[chosen], cut=0 if cold else None)

    return _sample(cases(), max_users)


def leave_one_out_cases(
    dataset: Path, catalogue: ItemCatalogue, *, from_end: int = 1, max_users: int | None = None
) -> Iterator[EvaluationCase]:
    """Every user with one target, the item ``from_end`` places from the end: 1 is the test item, 2 the validation item.

    Users without an interaction before it are left out, as are those whose item is not in the catalogue. Raises
    ``ConfigError`` for a number below 1.
    """
    _check(from_end=from_end, max_users=max_users)

    def cases() -> Iterator[EvaluationCase]:
        for user_id, history in iter_histories(dataset / SEQUENCES):
            cut = len(without_last(history, from_end))  # the target's place, which is where training ended or later
            row = catalogue.rows_of(history.item_key[cut : cut + 1])
            if cut > 0 and row[0] >= 0:
                yield _case(user_id, history, catalogue, np.array([cut]), row)

    return _sample(cases(), max_users)


def ahead_of_request(case: EvaluationCase) -> EvaluationCase:
    """The case of embeddings that are made before anybody asks, as a nightly job makes them: the request has the
    surface and time of the last interaction. A case without a history stays the same."""
    history = case.history
    if not len(history):
        return case
    return replace(case, request_surface=int(history.surface[-1]), request_time=int(history.timestamp[-1]))


def _held_out(dataset: Path, share: float, validation: bool) -> Iterator[tuple[int | str, History]]:
    def wanted(user_id: int | str) -> bool:
        return is_evaluation_user(user_id, share) and is_validation_user(user_id) == validation

    return iter_histories(dataset / SEQUENCES, keep_user=wanted)


def _sample(cases: Iterator[EvaluationCase], most: int | None) -> Iterator[EvaluationCase]:
    if most is None:
        return cases
    return iter(heapq.nsmallest(most, cases, key=lambda case: sampling_order(case.user_id)))


def _targets(history: History, catalogue: ItemCatalogue) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the interactions that can be targets, and their catalogue rows."""
    position = np.flatnonzero(history.outcome != NO_OUTCOME)
    row = catalogue.rows_of(history.item_key[position])
    return position[row >= 0], row[row >= 0]


def _last_distinct(row: np.ndarray, targets: int) -> np.ndarray:
    """Where the last ``targets`` distinct rows are, each at its last occurrence; fewer where there are no more."""
    return np.sort(len(row) - 1 - np.unique(row[::-1], return_index=True)[1])[-targets:]


def _last_cut(history: History, catalogue: ItemCatalogue, targets: int) -> int:
    """Where the history of the latest case ends: 0 for one without a target."""
    position, row = _targets(history, catalogue)
    return int(position[_last_distinct(row, targets)[0]]) if len(row) else 0


def _case(
    user_id: int | str,
    history: History,
    catalogue: ItemCatalogue,
    position: np.ndarray,
    row: np.ndarray,
    cut: int | None = None,
) -> EvaluationCase:
    """The case of targets at ``position`` (ascending); the cut is at the first of them unless given."""
    cut = int(position[0]) if cut is None else cut
    before, _ = _targets(history.take(slice(0, cut)), catalogue)
    return EvaluationCase(
        user_id=user_id,
        history=history.take(np.arange(max(0, cut - LONGEST_HISTORY), cut)),  # an index array: a copy
        seen_row=np.unique(catalogue.rows_of(history.item_key[before])),
        target_row=row,
        target_outcome=history.outcome[position],
        target_surface=history.surface[position],
        request_surface=int(history.surface[position[0]]),
        request_time=int(history.timestamp[position[0]]),
    )


def _check(**numbers: int | None) -> None:
    for name, number in numbers.items():
        require(number is None or number > 0, name, number, "a value above 0", error=ConfigError)
