"""Merging by mixture: an item's score is its probability under all embeddings of its request together.

In two passes. The first is over the finds of the whole batch: sorted by request and item, each item of each request is
a segment of neighbouring pairs, and what its finders give it is a sum over a segment. That leaves out the embeddings
that did not find the item, among whose best it is not. The second pass adds them, exactly, for the best of the first:
``SHORTLIST``·N items, and at least ``SHORTLIST_LEAST``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pinrec_core.retrieval.item_segments import ItemSegments, largest, log_sum
from pinrec_core.retrieval.item_softmax import ItemSoftmax, NormalisedSoftmax
from pinrec_core.retrieval.lookup import Finds, PlanBatch
from pinrec_core.retrieval.ranked_items import RankedItems

SHORTLIST, SHORTLIST_LEAST = 2, 256


@dataclass(frozen=True, slots=True)
class MergeByMixture:
    """The N likeliest items of Σ_m quota_m/N · p(i | z_m), shared out to the outcomes that made them likely."""

    softmax: ItemSoftmax

    def __call__(self, batch: PlanBatch, finds: Finds, excluded: list[np.ndarray]) -> list[RankedItems]:
        """A ``MergeRule``."""
        log_p = self.softmax.normalise(batch.embedding, finds)
        log_weight = np.log(batch.quota / batch.num_items[batch.request]).astype(np.float32)
        found = log_p.log_probability(finds.score, finds.embedding) + log_weight[finds.embedding]
        items = ItemSegments.of(batch.request[finds.embedding], finds.item_row, found)
        names, outcome = np.unique(batch.outcome, return_inverse=True)
        O, B = len(names), len(batch.num_items)
        item_row, score, share, embedding = [], [], [], []
        for b, N in enumerate(batch.num_items.tolist()):
            segment = items.shortlist(b, max(SHORTLIST * N, SHORTLIST_LEAST), excluded[b])
            rows = items.item_row[segment]
            own = np.flatnonzero(batch.request == b)
            part = self._parts(batch.embedding[own], rows, log_p, own) + log_weight[own, None]  # [m, U]
            total = log_sum(part)
            best = largest(total, N)
            item_row.append(rows[best])
            score.append(np.exp(total[best]))
            embedding.append(finds.embedding[items.likeliest_pair(segment[best], found)] - own[0])
            of_outcome = (outcome[own] == np.arange(O)[:, None]).astype(np.float32)  # [O, m]
            share.append((of_outcome @ np.exp(part[:, best] - total[best])).T)
        request = np.repeat(np.arange(B), [len(rows) for rows in item_row])
        room = np.bincount(batch.request * O + outcome, weights=batch.quota, minlength=B * O).astype(np.int64)
        counted = names[share_out(np.concatenate(share), request, room.reshape(B, O))].astype(np.int32)
        parts = np.split(counted, np.cumsum([len(rows) for rows in item_row])[:-1])
        return [
            RankedItems(item_row=rows, score=probability, outcome=outcomes, embedding=finder.astype(np.int32))
            for rows, probability, outcomes, finder in zip(item_row, score, parts, embedding, strict=True)
        ]

    def _parts(self, embedding: np.ndarray, rows: np.ndarray, log_p: NormalisedSoftmax, own: np.ndarray) -> np.ndarray:
        """log p of every item of one request under each of its embeddings, found or not: float32 ``[m, U]``."""
        return log_p.log_probability(embedding @ self.softmax.index.vectors_of(rows).T, own[:, None])


def share_out(share: np.ndarray, request: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Which outcome each item counts for: the largest share first, while an outcome has room. int64 ``[n]``.

    ``share`` ``[n, O]`` from 0 to 1, ``request`` ``[n]`` of the items, best first within a request, and ``room``
    ``[B, O]``, in all at least as much as a request has items. ``share_out_reference`` is the definition.

    Items and outcomes rank each other by the same number, so that the only stable matching is the greedy one, and
    deferred acceptance finds it for all requests at once: each item asks its best outcome, an outcome keeps the best of
    those who ask and sends the others on, until none is sent on.
    """
    n, O = share.shape
    left = share.astype(np.float32)
    index = np.arange(n)
    while True:
        choice = left.argmax(axis=1)
        group = request * O + choice
        order = _by_group(group, left[index, choice])
        ordered = group[order]
        rank = index - np.searchsorted(ordered, ordered)
        sent_on = order[rank >= room.reshape(-1)[ordered]]
        if not len(sent_on):
            return choice
        left[sent_on, choice[sent_on]] = -1


def share_out_reference(share: np.ndarray, request: np.ndarray, room: np.ndarray) -> np.ndarray:
    """The plain twin of ``share_out``, same signature: one pair of item and outcome at a time, largest share first."""
    n, O = share.shape
    left = room.copy()
    outcome = np.full(n, -1)
    for pair in np.argsort(-share.astype(np.float32).T, axis=None, kind="stable").tolist():
        o, i = divmod(pair, n)
        if left[request[i], o] and outcome[i] < 0:
            outcome[i] = o
            left[request[i], o] -= 1
    return outcome


def _by_group(group: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The order by group, then by falling ``share`` (float32, 0 to 1), then by position: int64 ``[n]``.

    Positive floating-point numbers are ordered as the integers of their bits are, so that all three fit into one key.
    """
    bits = len(group).bit_length()
    falling = (1 << 30) - np.maximum(share, 0).view(np.int32).astype(np.int64)
    assert int(group.max(initial=0)).bit_length() + 31 + bits < 64, "too many groups or items for a key"
    key = (((group << 31) | falling) << bits) | np.arange(len(group))
    key.sort()
    return key & ((1 << bits) - 1)
