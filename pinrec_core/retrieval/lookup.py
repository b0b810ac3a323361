"""The lookup of a batch: the embeddings of all requests in few searches, each request at its own depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pinrec_core.generation.retrieval_plan import RetrievalPlan
from pinrec_core.retrieval.item_index import ItemIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanBatch:
    """The plans of B requests behind one another: M embeddings in all, those of a request together."""

    embedding: np.ndarray  # float32 [M, D]
    request: np.ndarray  # int64 [M], ascending: whose embedding it is
    outcome: np.ndarray  # int64 [M]
    quota: np.ndarray  # int64 [M]
    num_items: np.ndarray  # int64 [B]: N of each request, the sum of its quotas

    @staticmethod
    def of(plans: Sequence[RetrievalPlan]) -> PlanBatch:
        request = np.repeat(np.arange(len(plans)), [len(plan.quota) for plan in plans])
        quota = np.concatenate([plan.quota for plan in plans]).astype(np.int64)
        return PlanBatch(
            embedding=np.concatenate([plan.embedding for plan in plans]).astype(np.float32, copy=False),
            request=request,
            outcome=np.concatenate([plan.outcome for plan in plans]).astype(np.int64),
            quota=quota,
            num_items=np.bincount(request, weights=quota, minlength=len(plans)).astype(np.int64),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finds:
    """What M embeddings found: P pairs of an embedding and an item."""

    embedding: np.ndarray  # int64 [P]
    item_row: np.ndarray  # int64 [P]
    score: np.ndarray  # float32 [P]: inner product


def look_up(
    index: ItemIndex, batch: PlanBatch, depth: np.ndarray, *, widen: int = 1, exhaustive: bool = False
) -> Finds:
    """The best ``depth`` int64 ``[B]`` items of every embedding of B requests. ``widen`` and ``exhaustive``: see
    ``ItemIndex.search``.

    Requests of like depth share a search. What it found beyond a request's own depth is cut off, so that a neighbour
    that looks deeper does not change what this one is answered.
    """
    parts = []
    for requests in _of_like_depth(depth):
        chosen = np.flatnonzero(requests[batch.request])
        score, row = index.search(batch.embedding[chosen], int(depth[requests].max()), widen=widen,
                                  exhaustive=exhaustive)  # fmt: skip
        own = (row >= 0) & (np.arange(row.shape[1]) < depth[batch.request[chosen], None])
        m, _ = np.nonzero(own)
        parts.append((chosen[m], row[own], score[own]))
    embedding, item_row, score = map(np.concatenate, zip(*parts, strict=True))
    return Finds(embedding=embedding, item_row=item_row, score=score)


def _of_like_depth(depth: np.ndarray) -> Iterator[np.ndarray]:
    """The requests in groups, as masks bool ``[B]``: in each, the least depth is more than half of the largest."""
    left = np.ones(len(depth), bool)
    while left.any():
        group = left & (2 * depth > depth[left].max())
        yield group
        left &= ~group
