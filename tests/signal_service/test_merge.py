"""Merging gives the same rows as a plain implementation on lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinrec_core.history import DTYPES, History
from signal_service.merge import merge_histories, newest, seen_item_keys

ROW = st.tuples(
    st.integers(0, 3),  # item key
    st.integers(0, 1),  # item type
    st.integers(-1, 1),  # outcome
    st.integers(0, 1),  # surface
    st.integers(0, 6),  # timestamp
)


def to_history(rows: list[tuple], first_feature: int) -> History:
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    names = ("item_key", "item_type", "outcome", "surface", "timestamp")
    values = {name: np.array(column, DTYPES[name]) for name, column in zip(names, columns, strict=True)}
    T = len(rows)
    origin = np.arange(first_feature, first_feature + T)
    return History(**values, feature=origin.astype(np.int8)[:, None].repeat(2, 1), scale=origin.astype(np.float32))


def reference(batch: list[tuple], realtime: list[tuple], until: int) -> list[tuple[tuple, int]]:
    """The merged rows, each with its position in ``batch + realtime``, by the definition of merging."""
    everything = [(row, origin) for origin, row in enumerate(batch + realtime) if row[4] <= until]
    kept, seen = [], set()
    for row, origin in sorted(everything, key=lambda pair: pair[0][4]):
        identity = (row[0], row[1], row[2], row[4])
        if identity not in seen:
            seen.add(identity)
            kept.append((row, origin))
    return kept


def rows_with_origin(history: History) -> list[tuple[tuple, int]]:
    names = ("item_key", "item_type", "outcome", "surface", "timestamp")
    rows = zip(*(getattr(history, name).tolist() for name in names), strict=True)
    np.testing.assert_array_equal(history.feature[:, 0], history.scale)
    return list(zip(rows, history.scale.astype(int).tolist(), strict=True))


@given(st.lists(ROW, max_size=12), st.lists(ROW, max_size=8), st.integers(-1, 7))
def test_equals_the_definition(batch, realtime, until):
    merged = merge_histories(to_history(batch, 0), to_history(realtime, len(batch)), until=until)
    assert rows_with_origin(merged.history) == reference(batch, realtime, until)


@given(st.lists(ROW, max_size=12), st.lists(ROW, max_size=8), st.integers(-1, 7))
def test_merging_again_changes_nothing(batch, realtime, until):
    events = to_history(realtime, len(batch))
    once = merge_histories(to_history(batch, 0), events, until=until).history
    assert rows_with_origin(merge_histories(once, events, until=until).history) == rows_with_origin(once)


def test_by_hand():
    batch = to_history([(1, 0, 0, 0, 10), (2, 0, 1, 1, 20)], 0)
    realtime = to_history([(2, 0, 1, 0, 20), (2, 0, 0, 0, 20), (3, 0, 0, 0, 15), (4, 0, 0, 0, 31)], 2)
    merged = merge_histories(batch, realtime, until=30).history
    # Item 3 is sorted in by its time. The second (2, outcome 1, time 20) is a duplicate of the batch's. Item 4 is later
    # than the request.
    assert merged.item_key.tolist() == [1, 3, 2, 2]
    assert merged.outcome.tolist() == [0, 0, 1, 0]
    assert merged.surface.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(("limit", "expected"), [(0, []), (2, [2, 3]), (3, [1, 2, 3]), (9, [1, 2, 3])])
def test_newest(limit, expected):
    history = to_history([(key, 0, 0, 0, key) for key in (1, 2, 3)], 0)
    assert newest(history, limit).item_key.tolist() == expected


def test_seen_are_pins_only():
    history = to_history([(9, 0, 0, 0, 1), (5, 1, -1, 0, 2), (3, 0, 1, 0, 3), (9, 0, 1, 0, 4)], 0)
    assert seen_item_keys(history).tolist() == [3, 9]
    assert seen_item_keys(History.empty(2)).dtype == np.int64
