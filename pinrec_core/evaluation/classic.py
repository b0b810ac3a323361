"""The classic protocol: leave one out, full ranking of the catalogue, seen items removed, HR@10 and NDCG@10.

Ties are shared out: an item's rank is the number of items that score strictly higher plus half of those that score the
same, so that a subject gains nothing by giving many items one score. A target that the user has seen before stays in
the ranking; all other seen items are removed from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from pinrec_core.errors import ConfigError, DataError, require
from pinrec_core.evaluation.bootstrap import mean_interval
from pinrec_core.evaluation.cases import EvaluationCase
from pinrec_core.evaluation.held_out import BATCH_USERS, batches
from pinrec_core.evaluation.result import EvaluationResult
from pinrec_core.evaluation.subjects import Subject


def evaluate_leave_one_out(
    subject: Subject,
    cases: Iterable[EvaluationCase],
    *,
    k: int = 10,
    protocol: str = "leave-one-out",
    batch: int = BATCH_USERS,
    report: Callable[[int], None] = lambda _: None,
) -> EvaluationResult:
    """Rank every user's one target. Arrays of the result: ``rank``, ``hit`` and ``ndcg``, float64 ``[users]``.

    Raises ``DataError`` when there is no case.
    """
    require(k > 0, "k", k, "a value above 0", error=ConfigError)
    users: list[int | str] = []
    ranks: list[float] = []
    for part in batches(cases, batch):
        for score, case in zip(subject.scores(part), part, strict=True):
            ranks.append(rank(score, int(case.target_row[0]), case.seen_row))
            users.append(case.user_id)
        report(len(part))
    if not users:
        raise DataError("no case: expected at least one user to judge")
    at = np.array(ranks)
    hit = (at < k).astype(np.float64)
    arrays = {"rank": at, "hit": hit, "ndcg": hit / np.log2(at + 2)}
    return EvaluationResult(
        subject=subject.name,
        protocol=protocol,
        metrics={
            "users": len(users),
            "catalogue": len(subject.catalogue),
            "k": k,
            "hit_rate": float(hit.mean()),
            "ndcg": float(arrays["ndcg"].mean()),
            "ci95": {name: mean_interval(arrays[name]).to_dict() for name in ("hit", "ndcg")},
        },
        user_id=users,
        arrays=arrays,
    )


def rank(score: np.ndarray, target: int, seen: np.ndarray) -> float:
    """Rank of a row among the scores ``[V]`` without the rows ``seen``, counting from 0; ties count half."""
    competes = np.ones(len(score), bool)
    competes[seen] = False
    competes[target] = False
    others = score[competes]
    return float((others > score[target]).sum() + 0.5 * (others == score[target]).sum())
