"""Counts by a 64-bit code, of which only those that occur are kept."""

from __future__ import annotations

import numpy as np

MAX_CODES = 1 << 26
"""Distinct codes kept, 1 GiB; beyond it the rarest go (lossy counting, Manku & Motwani 2002)."""
_FEWEST_WAITING = 1 << 22


class SparseCounts:
    """Counts codes as they come. Memory: 16 bytes for each of at most ``max_codes`` codes, and as much in waiting."""

    def __init__(self, max_codes: int = MAX_CODES) -> None:
        self._max_codes = max_codes
        self._code = np.empty(0, np.int64)  # ascending
        self._count = np.empty(0, np.int64)
        self._waiting: list[np.ndarray] = []
        self._num_waiting = 0

    def add(self, code: np.ndarray) -> None:
        """Count codes int64 ``[n]``, repeats allowed."""
        self._waiting.append(code)
        self._num_waiting += len(code)
        if self._num_waiting >= max(_FEWEST_WAITING, len(self._code)):  # so that each code is merged a few times only
            self._merge()

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct codes, ascending, and how often each was counted: int64 ``[n]`` both."""
        self._merge()
        return self._code, self._count

    def _merge(self) -> None:
        code, count = np.unique(np.concatenate([np.empty(0, np.int64), *self._waiting]), return_counts=True)
        self._waiting.clear()
        self._num_waiting = 0
        code, count = np.concatenate([self._code, code]), np.concatenate([self._count, count])
        order = np.argsort(code, kind="stable")  # of two ascending runs: a merge
        code, count = code[order], count[order]
        first = np.flatnonzero(np.diff(code, prepend=-1))
        self._code, self._count = code[first], np.add.reduceat(count, first) if len(first) else count
        if len(self._code) > self._max_codes:
            keep = np.sort(np.argpartition(-self._count, self._max_codes)[: self._max_codes])
            self._code, self._count = self._code[keep], self._count[keep]
