"""Repeats and duplicates are those of a plain implementation, whatever the order and the partitioning of the log."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinrec_core.preparation import staging
from pinrec_core.preparation.prepare import prepare_dataset
from tests.pinrec_core.preparation.small_log import NOW, SPEC, T0, Prepared, event, write_parquet

rows = st.builds(
    event,
    user=st.integers(0, 3),
    item=st.integers(1, 2),
    action=st.sampled_from(["click", "save"]),
    time=st.integers(T0, T0 + 4),
    surface=st.sampled_from(["", "a", "b", "c"]),  # with the mapping WITH_IDS this is the event id
)
WITH_IDS = replace(SPEC, items=None, events=replace(SPEC.events, surface=None, event_id="surface"))


def expected(log: list[dict], collapse: bool, with_ids: bool) -> tuple[set[int], int, set[int]]:
    """The positions of kept events, the number of collapsed ones, and the positions of duplicates.

    Events with the id of an earlier one are duplicates. So are those with the item, action and time of an earlier one.
    """
    order = sorted(range(len(log)), key=lambda n: (log[n]["user"], log[n]["time"], n))
    before: dict[int, tuple] = {}
    left = []
    for n in order:
        row = log[n]
        what = (row["item"], row["action"])
        if not collapse or before.get(row["user"]) != what:
            left.append(n)
        before[row["user"]] = what
    collapsed = len(log) - len(left)
    duplicates: set[int] = set()
    for identity in ("user", "surface"), ("user", "item", "action", "time"):
        seen: set[tuple] = set()
        for n in left:
            if n in duplicates or ("surface" in identity and not (with_ids and log[n]["surface"])):
                continue
            what = tuple(log[n][name] for name in identity)
            if what in seen:
                duplicates.add(n)
            seen.add(what)
    return set(left) - duplicates, collapsed, duplicates


@settings(max_examples=40, deadline=None)
@given(
    log=st.lists(rows, min_size=1, max_size=40),
    collapse=st.booleans(),
    with_ids=st.booleans(),
    partition_rows=st.sampled_from([3, 1000]),
)
def test_repeats_and_duplicates(log, collapse, with_ids, partition_rows):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "PARTITION_ROWS", partition_rows)
        path = Path(folder)
        write_parquet(path / "events.parquet", log)
        spec = replace(WITH_IDS if with_ids else replace(SPEC, items=None), collapse_repeats=collapse)
        report = prepare_dataset(spec, path, path / "out", now=NOW)
        prepared = Prepared(path / "out", report)
        kept, collapsed, duplicates = expected(log, collapse, with_ids)
        assert {e["ordinal"] for e in prepared.events} == kept
        assert set(prepared.reasons) == duplicates
        assert report.collapsed_events == collapsed
        assert report.rows_read == len(log) == len(kept) + collapsed + len(duplicates)
        assert report.num_users == len({row["user"] for row in log})


def test_event_files_hold_whole_users_in_time_order(run, monkeypatch):
    monkeypatch.setattr(staging, "PARTITION_ROWS", 10)
    prepared = run([event(user=n % 7, item=1 + n % 5, time=T0 + 1000 - n) for n in range(100)])
    files = sorted((prepared.folder / "events").glob("part-*.parquet"))
    assert len(files) > 2
    users: set[int] = set()
    for file in files:
        table = pq.read_table(file)
        keys = list(zip(table["user_id"].to_pylist(), table["timestamp"].to_pylist(), strict=True))
        assert keys == sorted(keys)
        assert not users & {user for user, _ in keys}
        users |= {user for user, _ in keys}
    assert users == set(range(7))


def test_events_are_equal_by_their_id_or_by_item_action_and_time(run):
    log = [
        event(surface="a"),
        event(surface="a", time=T0 + 9),  # the id of row 0
        event(surface="b"),  # item, action and time of row 0
        event(surface="b", action="save"),  # the id of row 2
        event(surface="c", action="save"),  # equals only row 3, which is set aside
        event(surface=""),
        event(user=2, surface="a"),
    ]
    prepared = run(log, None, WITH_IDS)
    assert [e["ordinal"] for e in prepared.events] == [0, 4, 6]
    assert {r["row"]: r["value"][-5:] for r in prepared.quarantine} == {1: "row 0", 2: "row 0", 3: "row 2", 5: "row 0"}


def test_queries_are_equal_by_text_and_time_whatever_their_action(run):
    """In a sequence queries have no action."""
    spec = replace(SPEC, query_actions=("search", "suggest"))
    queries = [event(item=None, action=a, query=q) for a, q in [("search", "cat"), ("suggest", "cat"), ("search", "x")]]
    prepared = run([*queries, event()], spec=spec)
    assert prepared.reasons == {1: "duplicate_event"}
    assert [e["action"] for e in prepared.events] == ["search", "search", "click"]


def test_the_same_query_may_be_asked_again(run):
    searches = [event(item=None, action="search", query=q, time=T0 + n) for n, q in enumerate(["cat", "dog", "cat"])]
    prepared = run([*searches, event(time=T0 + 3)])
    assert len(prepared.events) == 4
    assert prepared.report.num_queries == 2
