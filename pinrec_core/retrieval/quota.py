"""Merging by quota: each embedding brings its own number of items."""

from __future__ import annotations

import numpy as np

from pinrec_core.retrieval.lookup import Finds, PlanBatch
from pinrec_core.retrieval.ranked_items import RankedItems


def merge_by_quota(batch: PlanBatch, finds: Finds, excluded: list[np.ndarray]) -> list[RankedItems]:
    """A ``MergeRule``. Candidates are taken best first. A first pass gives each embedding up to its quota; a second
    tops outcomes up that lost items to another embedding."""
    request = batch.request[finds.embedding]
    return [
        _merge_one(batch, finds, batch.request == b, np.flatnonzero(request == b), rows)
        for b, rows in enumerate(excluded)
    ]


def _merge_one(batch: PlanBatch, finds: Finds, own: np.ndarray, pair: np.ndarray, excluded: np.ndarray) -> RankedItems:
    """The items of one request, whose embeddings are ``own`` (bool ``[M]``) and found the pairs ``pair``."""
    pair = pair[~np.isin(finds.item_row[pair], excluded)]
    pair = pair[np.argsort(-finds.score[pair], kind="stable")]
    # Lists, not arrays: the passes below read single values, which numpy boxes slowly.
    candidates = list(zip(finds.embedding[pair].tolist(), finds.item_row[pair].tolist(), pair.tolist(), strict=True))
    outcome_of = batch.outcome.tolist()
    left = np.where(own, batch.quota, 0).tolist()
    wanted = np.bincount(batch.outcome[own], weights=batch.quota[own]).astype(int).tolist()
    taken: dict[int, int] = {}  # row → its pair
    missing = sum(left)
    for m, item_row, position in candidates:
        if not missing:
            break
        if left[m] and item_row not in taken:
            taken[item_row] = position
            left[m] -= 1
            wanted[outcome_of[m]] -= 1
            missing -= 1
    for m, item_row, position in candidates:
        if not missing:
            break
        if wanted[outcome_of[m]] and item_row not in taken:
            taken[item_row] = position
            wanted[outcome_of[m]] -= 1
            missing -= 1
    chosen = np.fromiter(taken.values(), np.int64, len(taken))
    chosen = chosen[np.argsort(-finds.score[chosen], kind="stable")]
    return RankedItems(
        item_row=finds.item_row[chosen],
        score=finds.score[chosen],
        outcome=batch.outcome[finds.embedding[chosen]].astype(np.int32),
        embedding=(finds.embedding[chosen] - np.flatnonzero(own)[0]).astype(np.int32),
    )
