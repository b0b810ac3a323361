"""Merging by mixture: an item's score is its probability under all embeddings of its request that found it.

The whole batch is merged at once. Its finds are sorted by request and item, so that each item of each request is a
segment of neighbouring pairs, and sums over embeddings are sums over segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pinrec_core.retrieval.item_softmax import ItemSoftmax
from pinrec_core.retrieval.lookup import Finds, PlanBatch
from pinrec_core.retrieval.ranked_items import RankedItems


@dataclass(frozen=True, slots=True)
class MergeByMixture:
    """The N likeliest items of Σ_m quota_m/N · p(i | z_m), shared out to the outcomes that made them likely.

    The sum runs over the embeddings that found the item: what one did not find among its best is too unlikely under it
    to count.
    """

    softmax: ItemSoftmax

    def __call__(self, batch: PlanBatch, finds: Finds, excluded: list[np.ndarray]) -> list[RankedItems]:
        """A ``MergeRule``."""
        weight = batch.quota / batch.num_items[batch.request]
        part = self.softmax.log_probability(batch.embedding, finds) + np.log(weight).astype(np.float32)[finds.embedding]
        items = ItemSegments.of(batch.request[finds.embedding], finds.item_row, part)
        B = len(batch.num_items)
        chosen, answers = [], []
        ends = np.searchsorted(items.group, np.arange(B), side="right").tolist()
        for end, start, N, rows in zip(ends, [0, *ends], batch.num_items.tolist(), excluded, strict=False):
            total = items.total[start:end]
            if len(rows):
                total = np.where(np.isin(items.item_row[start:end], rows), -np.inf, total)
            best = largest(total, N)
            chosen.append(start + best[total[best] > -np.inf])
        sizes = [len(one) for one in chosen]
        segment = np.concatenate(chosen)
        outcome = self._outcomes(batch, finds, part, items, segment)
        score = np.exp(items.total[segment])
        for one, end in zip(sizes, np.cumsum(sizes).tolist(), strict=True):
            own = slice(end - one, end)
            answers.append(
                RankedItems(item_row=items.item_row[segment[own]], score=score[own], outcome=outcome[own])
            )  # fmt: skip
        return answers

    def _outcomes(
        self, batch: PlanBatch, finds: Finds, part: np.ndarray, items: ItemSegments, segment: np.ndarray
    ) -> np.ndarray:
        """Which outcome each of the chosen ``segment`` ``[n]`` counts for, int32 ``[n]``."""
        names, outcome = np.unique(batch.outcome, return_inverse=True)
        O, B = len(names), len(batch.num_items)
        if O == 1:
            return np.full(len(segment), names[0], np.int32)
        pair, item = items.pairs_of(segment)
        added = np.exp((part[pair] - items.total[segment][item]).astype(np.float64))
        share = np.bincount(item * O + outcome[finds.embedding[pair]], weights=added, minlength=len(segment) * O)
        room = np.bincount(batch.request * O + outcome, weights=batch.quota, minlength=B * O).astype(np.int64)
        return names[share_out(share.reshape(-1, O), items.group[segment], room.reshape(B, O))].astype(np.int32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemSegments:
    """The distinct items of several groups, such as requests, by group and row: S segments over P pairs."""

    group: np.ndarray  # int64 [S], ascending
    item_row: np.ndarray  # int64 [S], ascending within a group
    total: np.ndarray  # float32 [S]: log Σ exp of what the pairs of the item add
    start: np.ndarray  # int64 [S + 1]: where the item's pairs begin in ``pair``
    pair: np.ndarray  # int64 [P]: which pair of the input

    @staticmethod
    def of(group: np.ndarray, item_row: np.ndarray, part: np.ndarray) -> ItemSegments:
        """``group`` and ``item_row`` int64 ``[P]`` and the logarithms ``part`` float32 ``[P]`` of P pairs."""
        P = len(part)
        if P == 0:
            none = np.empty(0, np.int64)
            return ItemSegments(group=none, item_row=none, total=part, start=np.zeros(1, np.int64), pair=none)
        rows = int(item_row.max()) + 1
        # Group, row and pair in one number: sorting numbers is several times faster than finding their order.
        bits = P.bit_length()
        assert ((int(group.max()) + 1) * rows).bit_length() + bits < 64, "too many groups, items or pairs for a key"
        key = ((group * rows + item_row) << bits) | np.arange(P)
        key.sort()
        pair = key & ((1 << bits) - 1)
        key >>= bits
        first = np.flatnonzero(np.diff(key, prepend=-1))
        start = np.append(first, P)
        ordered = part[pair]
        most = np.maximum.reduceat(ordered, first)
        ordered -= np.repeat(most, np.diff(start))
        total = most + np.log(np.add.reduceat(np.exp(ordered, out=ordered), first))
        return ItemSegments(
            group=key[first] // rows, item_row=key[first] % rows, total=total, start=start, pair=pair
        )  # fmt: skip

    def pairs_of(self, segment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of segments ``[n]``, and for each pair the place of its segment in ``segment``: int64 both."""
        size = self.start[segment + 1] - self.start[segment]
        item = np.repeat(np.arange(len(segment)), size)
        within = np.arange(len(item)) - np.repeat(np.cumsum(size) - size, size)
        return self.pair[self.start[segment][item] + within], item


def largest(value: np.ndarray, n: int) -> np.ndarray:
    """Positions of the ``n`` largest of ``[S]``, largest first; of equal ones the earlier first."""
    n = min(n, len(value))
    if n < len(value):
        position = np.sort(np.argpartition(-value, n - 1)[:n]) if n else np.empty(0, np.int64)
        return position[np.argsort(-value[position], kind="stable")]
    return np.argsort(-value, kind="stable")


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
