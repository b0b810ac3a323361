"""Repeats and duplicates against a plain reading of their definition, in logs of any order, in any partitioning."""

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
)


def expected(log: list[dict], collapse: bool) -> tuple[set[int], int, set[int]]:
    """(kept, number collapsed, duplicates) as positions, one event at a time."""
    order = sorted(range(len(log)), key=lambda n: (log[n]["user"], log[n]["time"], n))
    before: dict[int, tuple] = {}
    seen: set[tuple] = set()
    kept: set[int] = set()
    duplicates: set[int] = set()
    collapsed = 0
    for n in order:
        row = log[n]
        what = (row["item"], row["action"])
        if collapse and before.get(row["user"]) == what:
            collapsed += 1
            continue
        before[row["user"]] = what
        identity = (row["user"], *what, row["time"])
        (duplicates if identity in seen else kept).add(n)
        seen.add(identity)
    return kept, collapsed, duplicates


@settings(max_examples=40, deadline=None)
@given(log=st.lists(rows, min_size=1, max_size=40), collapse=st.booleans(), partition_rows=st.sampled_from([3, 1000]))
def test_repeats_and_duplicates(log, collapse, partition_rows):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "PARTITION_ROWS", partition_rows)
        path = Path(folder)
        write_parquet(path / "events.parquet", log)
        report = prepare_dataset(replace(SPEC, collapse_repeats=collapse, items=None), path, path / "out", now=NOW)
        prepared = Prepared(path / "out", report)
        kept, collapsed, duplicates = expected(log, collapse)
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


def test_event_ids_tell_events_apart(run):
    spec = replace(SPEC, events=replace(SPEC.events, event_id="query"))
    spec = replace(spec, events=replace(spec.events, query=None))
    twice = [event(query="a"), event(query="b"), event(query="a", time=T0 + 9), event(user=2, query="a"), event(),
             event()]  # fmt: skip
    assert run(twice, spec=spec).reasons == {2: "duplicate_event", 5: "duplicate_event"}


def test_the_same_query_may_be_asked_again(run):
    searches = [event(item=None, action="search", query=q, time=T0 + n) for n, q in enumerate(["cat", "dog", "cat"])]
    prepared = run([*searches, event(time=T0 + 3)])
    assert len(prepared.events) == 4
    assert prepared.report.num_queries == 2
