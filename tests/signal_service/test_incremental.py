"""An incremental run gives the rows of a full run, bit for bit; where it cannot tell them, it makes a full run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pinrec_core.dataset.sequences import BatchInfo
from pinrec_core.ids import IdKind, user_store_key
from signal_service.batch_job import write_sequences
from signal_service.batch_report import BatchReport
from signal_service.batch_run import BatchRun
from tests.signal_service.builders import LogRow, random_log, write_prepared

pytestmark = pytest.mark.spark

DAY = 86_400


def add_day(folder: Path, rows: list[LogRow], *, first_ordinal: int, name: str) -> None:
    """A further file of events, as ``append_events`` adds one. Events are in any order."""
    user_type = pq.read_schema(next((folder / "events").glob("*.parquet"))).field("user_id").type
    names = ("user_id", "item_key", "item_type", "action", "surface", "timestamp")
    kinds = (user_type, pa.int64(), pa.int8(), pa.string(), pa.string(), pa.int64())
    columns = {
        n: pa.array([row[i] for row in rows], kind) for i, (n, kind) in enumerate(zip(names, kinds, strict=True))
    }
    columns["ordinal"] = pa.array(range(first_ordinal, first_ordinal + len(rows)), pa.int64())
    pq.write_table(pa.table(columns), folder / "events" / f"{name}.parquet")


def write(dataset: Path, out: Path, **settings: object) -> BatchReport:
    out.mkdir(parents=True)
    values: dict = {
        "master": "local[2]", "end_time": 1060, "lookback_days": None, "max_interactions_per_user": 2048,
        "driver_memory": "1g", "progress": lambda _: None,
    }  # fmt: skip
    return write_sequences(dataset, out, **(values | settings))


def rows_of(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(part).replace_schema_metadata() for part in sorted(folder.glob("part-*"))])


def assert_same(got: Path, expected: Path) -> None:
    """Same schema, rows, order and values, the hidden columns too."""
    a, b = rows_of(got), rows_of(expected)
    assert a.schema.equals(b.schema)
    assert a["user_id"].to_pylist() == b["user_id"].to_pylist()
    for name in b.column_names:
        assert a[name].combine_chunks().equals(b[name].combine_chunks()), name
    assert BatchInfo.load(got) == BatchInfo.load(expected)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", IdKind)
def test_a_week_of_days_equals_full_runs(tmp_path, spark_up, kind, seed):
    """Many equal times, late events, repeats of events that were cut, new users, a moving window, forgotten users."""
    rng = np.random.default_rng(seed)
    names = [-3, 7, 42, 99, 1234, 10**12] if kind is IdKind.INT else ["ann", "böb", "a b", "é", "z", "𝄞"]
    quarter = DAY // 4  # all events are at four times a day
    log = [(*row[:5], 40 * quarter + (row[5] - 1000) * 24 // 60 * quarter) for row in random_log(names[:4], 300, seed)]
    folder = write_prepared(tmp_path / "data", log, user_ids=kind)
    ordinal = len(log)
    forgotten: dict[bytes, int] = {}
    limit = 12
    previous, end = tmp_path / "run-0", 14 * DAY
    write(folder, previous, end_time=end, lookback_days=5, max_interactions_per_user=limit)
    cut = 0
    for day in range(1, 4):
        fresh = [
            (names[rng.integers(len(names))], *row[1:5], int(end + rng.integers(-12, 6) * (DAY // 4)))
            for row in random_log(names, 40, seed=1000 * seed + day)
        ]
        repeated = [log[i] for i in rng.integers(len(log), size=60)]  # the log delivers some events again
        rows = [(fresh + repeated)[i] for i in rng.permutation(100)]
        add_day(folder, rows, first_ordinal=ordinal + 5, name=f"part-{day + 10:05d}")
        log, ordinal, end = log + fresh, ordinal + 5 + len(rows), end + DAY // 2
        if day == 2:
            forgotten[user_store_key(names[1], kind)] = end - 2 * DAY
            forgotten[user_store_key(names[2], kind)] = end + DAY
        settings = {
            "end_time": end, "lookback_days": 5, "max_interactions_per_user": limit, "forgotten": dict(forgotten)
        }  # fmt: skip
        full, incremental = tmp_path / f"full-{day}", tmp_path / f"run-{day}"
        expected = write(folder, full, **settings)
        got = write(folder, incremental, previous=previous, **settings)
        assert (got.incremental, got.rebuilt_because, got.files_read) == (True, "", 1)
        assert_same(incremental, full)
        assert BatchRun.load(incremental) == BatchRun.load(full)
        assert (got.users, got.interactions) == (expected.users, expected.interactions)
        assert got.late > 0
        assert BatchReport.load(incremental) == got
        cut += sum(map(len, rows_of(full)["cut_item_key"].to_pylist()))
        previous = incremental
    assert cut > 0, "the log has no events that were cut at an equal time"
    assert not (previous / "new").exists()
