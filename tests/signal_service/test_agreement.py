"""Preparation, the batch job and the merge agree on events of one user with the same item and time.

Such events have the same action or another one. The log gives every event an id of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.history import DTYPES, History, ItemType
from pinrec_core.ids import IdKind, string_key, user_store_key
from pinrec_core.preparation.prepare import prepare_dataset
from pinrec_core.preparation.schema import DatasetSpec, EventColumns
from signal_service.batch_job import run_batch_job
from signal_service.merge import merge_histories
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Event
from signal_service.user_histories import UserHistories
from signal_service.view_writing import build_batch_view

pytestmark = pytest.mark.spark

NOW = 1_700_000_000
ALWAYS = NOW + 10**6
SPEC = DatasetSpec(
    name="log",
    outcomes=("save", "click"),
    query_actions=("search", "suggest"),
    ignored_actions=("view",),
    events=EventColumns(
        files=("events.parquet",), user="user", item="item", action="action", timestamp="time", surface="surface",
        query="query", event_id="uuid",
    ),
)  # fmt: skip

Row = tuple[int, int | None, str, int, str, str | None]  # user, item, action, time, surface, query


def random_rows(count: int) -> list[Row]:
    """Few users, items and times, so that many rows are equal in all of them."""
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for _ in range(count):
        action = ("save", "click", "view", "search", "suggest")[rng.integers(5)]
        is_query = action in SPEC.query_actions
        rows.append(
            (
                int(rng.integers(3)),
                None if is_query else int(rng.integers(1, 4)),
                action,
                NOW - 1000 + int(rng.integers(5)),
                ("home", "results")[rng.integers(2)],
                ("lamp", "red shoes")[rng.integers(2)] if is_query else None,
            )
        )
    return rows


def prepare(folder: Path, rows: Sequence[Row], spec: DatasetSpec = SPEC) -> Path:
    """A prepared dataset of the rows, with its sequences and their view."""
    folder.mkdir()
    columns: dict = dict(
        zip(("user", "item", "action", "time", "surface", "query"), zip(*rows, strict=True), strict=True)
    )
    columns["uuid"] = [f"id-{position}" for position in range(len(rows))]
    columns["item"] = pa.array(columns["item"], pa.int64())
    columns["query"] = pa.array(columns["query"], pa.string())
    pq.write_table(pa.table(columns), folder / "events.parquet")
    prepared = folder / "prepared"
    prepare_dataset(spec, folder, prepared, now=NOW)
    run_batch_job(prepared)
    build_batch_view(prepared / "signals")
    return prepared


def store_events(folder: Path, rows: Sequence[Row]) -> None:
    """The rows as `signal_ingest` stores them. Their event ids have the order of the log."""
    with RocksDbEventStore.open_primary(folder) as store:
        store.append(
            [
                Event(
                    event_id=f"{position:06}",
                    user_key=user_store_key(user, IdKind.INT),
                    item_key=string_key(query) if query else int(item or 0),
                    item_type=ItemType.QUERY if query else ItemType.PIN,
                    action=action,
                    surface=surface,
                    timestamp=time,
                    query=query or "",
                )
                for position, (user, item, action, time, surface, query) in enumerate(rows)
            ]
        )


def served(prepared: Path, realtime: Path, user: int) -> History:
    """The history that a request is given."""
    histories = UserHistories.open(
        DatasetManifest.load(prepared), ItemCatalogue.open(prepared), signals=prepared / "signals", realtime=realtime
    )
    histories.refresh()
    with closing(histories._realtime):
        (found,) = histories.at_many([(user_store_key(user, IdKind.INT), ALWAYS)])
        return found.history


def assert_equal(got: History, expected: History) -> None:
    for name in DTYPES:
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)


@pytest.mark.parametrize("event_id", [None, "uuid"])
def test_equal_events_count_once_everywhere(tmp_path, spark_up, event_id):
    rows = random_rows(400)
    spec = replace(SPEC, events=replace(SPEC.events, event_id=event_id))
    prepared = prepare(tmp_path / "log", rows, spec)
    batch = dict(iter_histories(prepared / "signals" / "sequences"))

    events = pq.read_table(prepared / "events").to_pylist()
    used = [e for e in events if e["action"] != "view"]
    assert sum(map(len, batch.values())) == len(used) < len([row for row in rows if row[2] != "view"])

    # The same rows as real-time events, behind a batch that holds one older event of each user.
    older: list[Row] = [(user, 1, "click", NOW - 5000, "home", None) for user in range(3)]
    early = prepare(tmp_path / "early", older + rows, spec)
    run_batch_job(early, end_time=NOW - 4000)
    build_batch_view(early / "signals")
    store_events(tmp_path / "realtime", rows)
    for user, history in batch.items():
        assert_equal(merge_histories(history, History.empty(history.feature.shape[1]), until=ALWAYS).history, history)
        request = served(early, tmp_path / "realtime", user)
        assert request.timestamp[0] == NOW - 5000
        assert_equal(request.take(slice(1, None)), history)


def test_an_event_ahead_of_the_clock_does_not_hide_real_time_events(tmp_path, spark_up):
    rows: list[Row] = [
        (1, 1, "click", NOW - 100, "home", None),
        (1, 2, "click", NOW + 80_000, "home", None),  # by a clock that is almost a day ahead
    ]
    prepared = prepare(tmp_path / "log", rows)
    assert BatchInfo.load(prepared / "signals" / "sequences").end_time == NOW - 99
    store_events(tmp_path / "realtime", [(1, 2, "save", NOW + 60, "home", None)])
    assert served(prepared, tmp_path / "realtime", 1).timestamp.tolist() == [NOW - 100, NOW + 60]
