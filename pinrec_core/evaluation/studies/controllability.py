"""Controllability (PinRec, evaluation): the whole budget goes to one outcome; which targets does that recall?

Recall is counted by the targets' true outcome and divided by that of a reference that has no such control (UC). Only
the desired outcome's S·W embeddings count, since the budget buys no others, and the reference generates as many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pinrec_core.errors import ConfigError, DataError, require
from pinrec_core.evaluation.bootstrap import Interval, mean_interval, ratio_interval
from pinrec_core.evaluation.cases import EvaluationCase
from pinrec_core.evaluation.held_out import BATCH_USERS, batches
from pinrec_core.evaluation.subjects import ModelSubject
from pinrec_core.evaluation.unordered_recall import recalled, retrieved_lists


def hits_by_desired_outcome(
    subject: ModelSubject,
    cases: Iterable[EvaluationCase],
    *,
    k: int = 10,
    batch: int = BATCH_USERS,
    report: Callable[[int], None] = lambda _: None,
) -> np.ndarray:
    """Recalled targets with all budget on each outcome in turn: bool ``[O, users, Z]``; O is 1 for a model that is not
    conditioned on outcomes. Only the desired outcome's embeddings look anything up."""
    indexed = subject.indexed
    O = indexed.model.config.num_conditions
    hits: list[list[np.ndarray]] = [[] for _ in range(O)]
    for part in batches(cases, batch):
        target = np.stack([case.target_row for case in part])
        for desired in range(O):
            all_on_it = np.eye(O)[desired]
            embedding = indexed.generate([case.request(all_on_it) for case in part])[:, desired]  # [B, S·W, D]
            hits[desired].append(recalled(target, retrieved_lists(embedding, indexed.index.blocks(), k)))
        report(len(part))
    if not hits[0]:
        raise DataError("no case: expected at least one user to judge")
    return np.stack([np.concatenate(parts) for parts in hits])


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllabilityMatrix:
    """Rows are true outcomes, columns desired ones; an outcome without a target has NaN in its row."""

    outcomes: tuple[str, ...]
    targets: np.ndarray  # int64 [O], of each true outcome
    recall: list[list[Interval]]  # [O true][O desired]
    reference: list[Interval]  # [O true]
    ratio: list[list[Interval]]  # recall over the reference's, paired by user

    def to_dict(self) -> dict[str, Any]:
        """Plain data, by name of the true and then of the desired outcome."""
        return {
            true: {
                "targets": int(self.targets[row]),
                "reference": self.reference[row].to_dict(),
                "recall": {d: self.recall[row][column].to_dict() for column, d in enumerate(self.outcomes)},
                "ratio": {d: self.ratio[row][column].to_dict() for column, d in enumerate(self.outcomes)},
            }
            for row, true in enumerate(self.outcomes)
        }


def controllability_matrix(
    hits: np.ndarray, reference: np.ndarray, target_outcome: np.ndarray, outcomes: Sequence[str]
) -> ControllabilityMatrix:
    """Hits ``[O, users, Z]`` and the reference's ``[users, Z]``, with the outcome of every target ``[users, Z]``.

    For several seeds, average both over them first. Raises ``ConfigError`` when the shapes do not agree.
    """
    O, users, Z = hits.shape
    require(len(outcomes) == O, "outcomes", tuple(outcomes), f"{O} of them, one per desired outcome", error=ConfigError)
    for name, array in {"reference": reference, "target_outcome": target_outcome}.items():
        require(array.shape == (users, Z), name, array.shape, f"the shape {(users, Z)}", error=ConfigError)
    is_true = [target_outcome == true for true in range(O)]
    trials = [chosen.sum(axis=1) for chosen in is_true]
    by_reference = [(reference * chosen).sum(axis=1) for chosen in is_true]
    by_desired = [[(hits[desired] * chosen).sum(axis=1) for desired in range(O)] for chosen in is_true]
    return ControllabilityMatrix(
        outcomes=tuple(outcomes),
        targets=np.array([trial.sum() for trial in trials]),
        recall=[[mean_interval(hit, trial) for hit in row] for row, trial in zip(by_desired, trials, strict=True)],
        reference=[mean_interval(hit, trial) for hit, trial in zip(by_reference, trials, strict=True)],
        ratio=[[ratio_interval(hit, base) for hit in row] for row, base in zip(by_desired, by_reference, strict=True)],
    )
