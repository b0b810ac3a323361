"""Counts in pieces are the counts of the whole, and only the rarest are lost."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pinrec_core.baselines import sparse_counts
from pinrec_core.baselines.sparse_counts import SparseCounts


@pytest.mark.parametrize("waiting", [1, 50, 1 << 20])
def test_counts_in_pieces(waiting, monkeypatch):
    monkeypatch.setattr(sparse_counts, "_FEWEST_WAITING", waiting)
    random = np.random.default_rng(0)
    counts, expected = SparseCounts(), Counter()
    for _ in range(40):
        codes = random.zipf(1.3, 30) % (1 << 60)
        counts.add(codes)
        expected.update(codes.tolist())
    code, count = counts.counts()
    assert dict(zip(code.tolist(), count.tolist(), strict=True)) == expected
    assert (np.diff(code) > 0).all()


def test_nothing_counted_is_nothing():
    code, count = SparseCounts().counts()
    assert len(code) == len(count) == 0


def test_beyond_the_limit_the_rarest_go():
    counts = SparseCounts(max_codes=2)
    counts.add(np.array([7, 7, 7, 1, 5, 5]))
    code, count = counts.counts()
    assert (code.tolist(), count.tolist()) == ([5, 7], [2, 3])
