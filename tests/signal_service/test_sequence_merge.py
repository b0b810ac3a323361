"""Merging new events into sequences gives what a few lines of plain Python make of all events, whatever their order."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinrec_core.ids import IdKind
from signal_service.batch_run import RebuildNeeded
from signal_service.sequence_merge import STORED_DTYPES, MergeRules, Sequences, merge_users

F = 2
NOBODY: dict[int | str, int] = {}

Interaction = tuple[int, int, int, int]  # user, item key, outcome, time; the position in the log is that in a list


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    start: int
    end: int
    forgotten: dict[int | str, int]


def used(events: list[Interaction], window: Window) -> list[tuple[int, Interaction]]:
    return [
        (ordinal, event)
        for ordinal, event in enumerate(events)
        if window.start <= event[3] < window.end and event[3] > window.forgotten.get(event[0], -1)
    ]


def full_run(events: list[tuple[int, Interaction]], L: int, *, whole: bool = True) -> Sequences:
    """The reference: the first of equal interactions, in order, the newest L. ``events`` have their ordinals."""
    first: dict[Interaction, int] = {}
    for ordinal, event in events:
        first.setdefault(event, ordinal)
    by_user: dict[int, list[tuple[int, int, Interaction]]] = {}
    for event, ordinal in first.items():
        by_user.setdefault(event[0], []).append((event[3], ordinal, event))
    users = sorted(by_user)
    kept, cut, known = [], [], []
    for user in users:
        ordered = sorted(by_user[user])
        newest = ordered[-L:]
        tied = [row for row in ordered[:-L] if row[0] == newest[0][0]]
        kept.append(newest if whole else tied + newest)
        known.append(len(tied) <= L)
        cut.append(sorted((row[2][1], row[2][2]) for row in tied) if whole and len(tied) <= L else [])
    flat = [(ordinal, event) for rows in kept for _, ordinal, event in rows]
    ordinal = np.array([o for o, _ in flat], np.int64)
    columns = {
        "item_key": np.array([e[1] for _, e in flat]), "outcome": np.array([e[2] for _, e in flat]),
        "timestamp": np.array([e[3] for _, e in flat]), "item_type": np.zeros(len(flat)),
        "surface": ordinal, "scale": ordinal, "feature": np.stack([ordinal, ordinal + 1], 1),
    }  # fmt: skip
    flat_cut = [pair for pairs in cut for pair in pairs]
    return Sequences(
        users=np.array(users, np.int64),
        offsets=np.cumsum([0, *map(len, kept)]),
        columns={name: columns[name].astype(dtype) for name, dtype in STORED_DTYPES.items()},
        cut_offsets=np.cumsum([0, *map(len, cut)]),
        cut_item_key=np.array([key for key, _ in flat_cut], np.int64),
        cut_outcome=np.array([outcome for _, outcome in flat_cut], np.int16),
        cut_known=np.array(known, bool) if whole else np.ones(len(users), bool),
    )


def assert_equal(got: Sequences, expected: Sequences) -> None:
    for field in fields(Sequences):
        a, b = getattr(got, field.name), getattr(expected, field.name)
        for name in a if field.name == "columns" else ():
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
            assert a[name].dtype == b[name].dtype, name
        if field.name != "columns":
            np.testing.assert_array_equal(a, b, err_msg=field.name)


def rules(L: int, window: Window) -> MergeRules:
    return MergeRules(
        user_id_kind=IdKind.INT, feature_width=F, limit=L, start_time=window.start, forgotten=window.forgotten
    )


events = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 1), st.integers(0, 9)), min_size=3, max_size=60
)
times = st.dictionaries(st.integers(0, 2), st.integers(0, 9), max_size=2)


@settings(max_examples=500, deadline=None)
@given(
    log=st.lists(events, min_size=2, max_size=4),
    L=st.integers(1, 6),
    starts=st.lists(st.integers(0, 6), min_size=4, max_size=4),
    ends=st.lists(st.integers(4, 10), min_size=4, max_size=4),
    tombstones=times,
)
def test_a_chain_of_merges_equals_full_runs(log, L, starts, ends, tombstones):
    """Late events, repeats of kept and of cut ones, cuts through equal times, windows that move, forgotten users."""
    all_events: list[Interaction] = []
    starts, ends = sorted(starts), sorted(ends)
    result, before = None, None
    for number, day in enumerate(log):
        first_new = len(all_events)
        all_events = all_events + day
        window = Window(start=starts[number], end=ends[number], forgotten=tombstones if number > 1 else NOBODY)
        expected = full_run(used(all_events, window), L)
        if result is not None and before is not None:
            not_used_before = [
                (ordinal, event) for ordinal, event in used(all_events, window)
                if ordinal >= first_new or event[3] >= before.end
            ]  # fmt: skip
            try:
                merged, counts = merge_users(result, full_run(not_used_before, L, whole=False), rules(L, window))
            except RebuildNeeded:
                merged = expected  # the caller makes a full run
            else:
                assert counts.users == len(expected)
                assert counts.interactions == len(expected.columns["item_key"])
                gone = counts.outside_window + counts.forgotten + counts.repeats + counts.cut
                added = len(full_run(not_used_before, L, whole=False).columns["item_key"])
                assert len(result.columns["item_key"]) + added == counts.interactions + gone
            assert_equal(merged, expected)
        result, before = expected, window


def test_a_repeat_of_an_interaction_that_was_cut_stays_out():
    """By hand: of three at one time the first is cut, and comes again later. It must not push out the second."""
    window = Window(start=0, end=10, forgotten=NOBODY)
    log = [(0, 1, 0, 5), (0, 2, 0, 5), (0, 3, 0, 5)]
    before = full_run(used(log, window), 2)
    assert (before.columns["item_key"].tolist(), before.cut_item_key.tolist()) == ([2, 3], [1])
    again = full_run([(3, (0, 1, 0, 5))], 2, whole=False)
    merged, counts = merge_users(before, again, rules(2, window))
    assert merged.columns["item_key"].tolist() == [2, 3]
    assert (counts.repeats, counts.cut) == (1, 0)
    other = full_run([(3, (0, 4, 0, 5))], 2, whole=False)
    merged, counts = merge_users(before, other, rules(2, window))
    assert merged.columns["item_key"].tolist() == [3, 4]
    assert (merged.cut_item_key.tolist(), counts.cut) == ([1, 2], 1)


def test_what_cannot_be_told_is_refused():
    window = Window(start=0, end=10, forgotten=NOBODY)
    before = full_run(used([(0, key, 0, 5) for key in range(6)], window), 2)
    assert before.cut_known.tolist() == [False], "4 were cut at one time, of which 2 can be kept"
    with pytest.raises(RebuildNeeded, match="more than 2 events of its user were cut"):
        merge_users(before, full_run([(6, (0, 1, 0, 5))], 2, whole=False), rules(2, window))
    newer = full_run(used([(0, key, 0, 5) for key in range(6)] + [(0, 9, 0, 6)], window), 2)
    assert newer.cut_known.tolist() == [False]
    merged, _ = merge_users(newer, full_run([(7, (0, 9, 0, 6))], 2, whole=False), rules(2, window))
    assert_equal(merged, newer)  # a repeat of one that is kept changes nothing
    merged, _ = merge_users(before, full_run([(6, (0, 1, 0, 4)), (7, (0, 9, 0, 6))], 2, whole=False), rules(2, window))
    assert merged.columns["item_key"].tolist() == [5, 9]
    assert merged.cut_known.tolist() == [False]
    many = full_run([(n, (1, n, 0, 7)) for n in range(9)], 2, whole=False)
    with pytest.raises(RebuildNeeded, match="a user has more than 2 new events at one time"):
        merge_users(before, many, rules(2, window))
