"""The finds of a batch, item by item: what several embeddings found as one is a segment of neighbouring pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemSegments:
    """The distinct items of several groups, such as requests, by group and row: S segments over P pairs."""

    group: np.ndarray  # int64 [S], ascending
    item_row: np.ndarray  # int64 [S], ascending within a group
    total: np.ndarray  # float32 [S]: log Σ exp of what the pairs of the item add
    first: np.ndarray  # int64 [S + 1]: where the pairs of each segment begin, and P
    pair: np.ndarray  # int64 [P]: the pairs, segment by segment

    @staticmethod
    def of(group: np.ndarray, item_row: np.ndarray, part: np.ndarray) -> ItemSegments:
        """``group`` and ``item_row`` int64 ``[P]`` and the logarithms ``part`` float32 ``[P]`` of P pairs."""
        P = len(part)
        if P == 0:
            none = np.empty(0, np.int64)
            return ItemSegments(group=none, item_row=none, total=part, first=np.zeros(1, np.int64), pair=none)
        rows = int(item_row.max()) + 1
        # Group, row and pair in one number: sorting numbers is several times faster than finding their order.
        bits = P.bit_length()
        assert ((int(group.max()) + 1) * rows).bit_length() + bits < 64, "too many groups, items or pairs for a key"
        key = ((group * rows + item_row) << bits) | np.arange(P)
        key.sort()
        pair = key & ((1 << bits) - 1)
        ordered = part[pair]
        key >>= bits
        first = np.flatnonzero(np.diff(key, prepend=-1))
        most = np.maximum.reduceat(ordered, first)
        ordered -= np.repeat(most, np.diff(first, append=P))
        total = most + np.log(np.add.reduceat(np.exp(ordered, out=ordered), first))
        return ItemSegments(
            group=key[first] // rows, item_row=key[first] % rows, total=total, first=np.append(first, P), pair=pair
        )

    def shortlist(self, group: int, n: int, excluded: np.ndarray) -> np.ndarray:
        """The segments of the ``n`` items of a group with the largest totals, without the ``excluded`` rows: int64, by
        ascending row."""
        begin, end = np.searchsorted(self.group, [group, group + 1]).tolist()
        segment = np.arange(begin, end)
        if len(excluded):
            segment = segment[~np.isin(self.item_row[segment], excluded)]
        return np.sort(segment[largest(self.total[segment], n)])

    def likeliest_pair(self, segment: np.ndarray, part: np.ndarray) -> np.ndarray:
        """The pair of each segment, int64 ``[n]``, with the largest ``part`` ``[P]``: the first of equal ones."""
        lengths = self.first[segment + 1] - self.first[segment]
        start = np.cumsum(lengths) - lengths
        within = np.repeat(np.arange(len(segment)), lengths)
        pair = self.pair[np.repeat(self.first[segment] - start, lengths) + np.arange(len(within))]
        best_first = pair[np.lexsort((pair, -part[pair], within))]
        return best_first[start]


def log_sum(part: np.ndarray) -> np.ndarray:
    """log Σ exp over the first dimension of finite logarithms: ``[m, n]`` → ``[n]``."""
    most = part.max(axis=0)
    return most + np.log(np.exp(part - most).sum(axis=0))


def largest(value: np.ndarray, n: int) -> np.ndarray:
    """Positions of the ``n`` largest of ``[S]``, largest first; of equal ones the earlier first."""
    n = min(n, len(value))
    if n < len(value):
        position = np.sort(np.argpartition(-value, n - 1)[:n]) if n else np.empty(0, np.int64)
        return position[np.argsort(-value[position], kind="stable")]
    return np.argsort(-value, kind="stable")
