"""The held-out protocols (PinRec, evaluation): a subject is judged on users it was not trained on, with or without a
history.

Unordered recall at k (eq. 6) favours a subject with many embeddings, so it stands beside three other figures. *At equal
retrieved items*: E embeddings look at up to k·E items, and a subject with fewer embeddings may look deeper, one with a
single list at its top k·E. *At equal distinct items*: the lists of one user overlap, so the single list is cut to as
many items as the other subject's lists hold distinct ones (``result.compare_at_equal_distinct_items``). *Served*: the
recall of the N items that the whole serving path returns, which is what a user of the service gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from pinrec_core.errors import ConfigError, DataError, require
from pinrec_core.evaluation.bootstrap import mean_interval
from pinrec_core.evaluation.cases import SERVED_ITEMS, EvaluationCase
from pinrec_core.evaluation.result import EvaluationResult
from pinrec_core.evaluation.subjects import Subject
from pinrec_core.evaluation.unordered_recall import RetrievedItems, list_ranks, recalled

T_co = TypeVar("T_co")
BATCH_USERS = 32


def evaluate(
    subject: Subject,
    cases: Iterable[EvaluationCase],
    *,
    outcomes: Sequence[str],
    surfaces: Sequence[str],
    k: int = 10,
    equal_embeddings: int = 1,
    num_items: int = SERVED_ITEMS,
    exclude_seen: bool = False,
    protocol: str = "held-out",
    batch: int = BATCH_USERS,
    report: Callable[[int], None] = lambda _: None,
) -> EvaluationResult:
    """Judge a subject. ``outcomes`` and ``surfaces`` are the dataset's vocabularies.

    A subject is judged at k per embedding, and at k·``equal_embeddings`` retrieved items in all, spread over its
    embeddings. ``exclude_seen`` keeps items of the history out of the served ones. Raises ``DataError`` when there is
    no case.

    Arrays of the result: ``hit``, ``hit_equal_items`` and ``served_hit`` bool ``[users, Z]``, ``target_outcome`` and
    ``target_surface`` int16 ``[users, Z]``, ``distinct_items`` int64 ``[users]`` of the top-k lists; for a subject of
    one list ``list_rank`` int64 ``[users, Z]``: the target's place in it, or its length where it is not there.
    """
    for name, number in {"k": k, "equal_embeddings": equal_embeddings, "num_items": num_items}.items():
        require(number > 0, name, number, "a value above 0", error=ConfigError)
    depth = max(k, k * equal_embeddings // subject.embeddings)
    at_k, at_equal, of_served = (RetrievedItems(len(subject.catalogue)) for _ in range(3))
    users: list[int | str] = []
    kept = 0
    columns: dict[str, list[np.ndarray]] = {}
    for part in batches(cases, batch):
        answers = subject.answer(part, depth=depth, num_items=num_items, exclude_seen=exclude_seen)
        target = np.stack([case.target_row for case in part])
        lists = answers.retrieved[:, :, :k]
        at_k.add(lists)
        at_equal.add(answers.retrieved)
        of_served.add(np.concatenate(answers.served))
        kept += int(answers.kept.sum())
        users.extend(case.user_id for case in part)
        for name, values in {
            "hit": recalled(target, lists),
            "hit_equal_items": recalled(target, answers.retrieved),
            "served_hit": np.stack([np.isin(t, rows) for t, rows in zip(target, answers.served, strict=True)]),
            "target_outcome": np.stack([case.target_outcome for case in part]),
            "target_surface": np.stack([case.target_surface for case in part]),
            "distinct_items": np.array([len(np.unique(rows)) for rows in lists]),
            **({"list_rank": list_ranks(target, answers.retrieved[:, 0])} if subject.embeddings == 1 else {}),
        }.items():
            columns.setdefault(name, []).append(values)
        report(len(part))
    if not users:
        raise DataError("no case: expected at least one user to judge")
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    metrics: dict[str, Any] = {
        "users": len(users),
        "targets_per_user": arrays["hit"].shape[1],
        "catalogue": len(subject.catalogue),
        "embeddings": subject.embeddings,
        "k": k,
        "retrieved_items": subject.embeddings * depth,
        "num_items": num_items,
        "exclude_seen": exclude_seen,
        "generation": subject.settings,
        "unordered_recall": float(arrays["hit"].mean()),
        "unordered_recall_equal_items": float(arrays["hit_equal_items"].mean()),
        "served_recall": float(arrays["served_hit"].mean()),
        "distinct_items": float(arrays["distinct_items"].mean()),
        "diversity": at_k.diversity,
        "diversity_equal_items": at_equal.diversity,
        "catalogue_coverage": at_k.coverage,
        "catalogue_coverage_equal_items": at_equal.coverage,
        "served_coverage": of_served.coverage,
        "compression_ratio": subject.embeddings * len(users) / kept,
        "ci95": {
            name: mean_interval(arrays[name].mean(axis=1)).to_dict()
            for name in ("hit", "hit_equal_items", "served_hit")
        },
        "by_outcome": _shares(arrays, "target_outcome", outcomes),
        "by_surface": _shares(arrays, "target_surface", surfaces),
    }
    return EvaluationResult(subject=subject.name, protocol=protocol, metrics=metrics, user_id=users, arrays=arrays)


def batches(items: Iterable[T_co], size: int) -> Iterator[list[T_co]]:
    """Consecutive lists of at most ``size``."""
    stream = iter(items)
    while part := list(islice(stream, size)):
        yield part


def _shares(arrays: dict[str, np.ndarray], group: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Recalls over the targets of each group that occurs, with the number of these targets."""
    shares: dict[str, dict[str, Any]] = {}
    for number in np.unique(arrays[group]):
        chosen = arrays[group] == number
        shares[names[number]] = {"targets": int(chosen.sum())} | {
            recall: float(arrays[hit][chosen].mean())
            for recall, hit in (("unordered_recall", "hit"), ("unordered_recall_equal_items", "hit_equal_items"),
                                ("served_recall", "served_hit"))
        }  # fmt: skip
    return shares
