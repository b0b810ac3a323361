"""An incremental run gives the rows of a full run, bit for bit; where it cannot tell them, it makes a full run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import DataError
from pinrec_core.ids import IdKind, user_store_key
from pinrec_core.preparation.append import append_events
from pinrec_core.preparation.prepare import prepare_dataset
from signal_service.batch_job import write_sequences
from signal_service.batch_report import BatchReport
from signal_service.batch_run import BatchRun
from tests.pinrec_core.preparation.small_log import ITEMS, NOW, SPEC, T0, event, write_parquet
from tests.signal_service.builders import PIN, LogRow, random_log, write_prepared

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


@pytest.mark.parametrize(("kind", "seed"), [(IdKind.INT, 0), (IdKind.STRING, 1)])
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
        assert got.adds_up
        assert expected.adds_up
        assert BatchReport.load(incremental) == got
        cut += sum(map(len, rows_of(full)["cut_item_key"].to_pylist()))
        previous = incremental
    assert cut > 0, "the log has no events that were cut at an equal time"
    assert not (previous / "new").exists()


@pytest.fixture
def day(tmp_path: Path, spark_up: None) -> tuple[Path, Path]:
    """A dataset with a batch of its events before 1040, at ``run-0``, and a day that was added afterwards."""
    folder = write_prepared(tmp_path / "data", random_log([1, 2, 3], 60))
    previous = tmp_path / "run-0"
    write(folder, previous, end_time=1040, max_interactions_per_user=8)
    add_day(folder, [(2, 101, PIN, "save", "home", 1041), (9, 102, PIN, "click", "home", 1050)],
            first_ordinal=60, name="part-2")  # fmt: skip
    return folder, previous


def test_nothing_new_gives_the_same_again(tmp_path, spark_up):
    folder = write_prepared(tmp_path / "data", random_log([1, 2, 3], 60))
    first = write(folder, tmp_path / "run-0")
    again = write(folder, tmp_path / "run-1", previous=tmp_path / "run-0")
    assert (again.incremental, again.files_read, again.events_read) == (True, 0, 0)
    assert again.previous_interactions == again.interactions == first.interactions
    assert_same(tmp_path / "run-1", tmp_path / "run-0")
    names = [[path.name for path in sorted((tmp_path / run).iterdir())] for run in ("run-0", "run-1")]
    assert names[0] == names[1] == ["batch.json", "part-00000.parquet", "part-00001.parquet", "report.json", "run.json"]


def _other_features(folder: Path) -> dict:
    table = pq.read_table(folder / "features.parquet")
    scale = table["scale"].to_numpy().copy()
    scale[3] += 1
    pq.write_table(table.set_column(3, "scale", pa.array(scale)), folder / "features.parquet")
    return {}


def _other_file(folder: Path) -> dict:
    path = folder / "events" / "part-0.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    return {}


def _ordinals_from_the_beginning(folder: Path) -> dict:
    add_day(folder, [(2, 101, PIN, "save", "home", 1042)], first_ordinal=3, name="part-2")
    return {}


def _other_surfaces(folder: Path) -> dict:
    manifest = DatasetManifest.load(folder)
    replace(manifest, surfaces=(*manifest.surfaces, "new")).save(folder)
    return {}


def _many_at_the_time_of_a_cut(folder: Path) -> dict:
    events = [(5, 100 + n, PIN, "save", "home", 1045) for n in range(20)]
    add_day(folder, events, first_ordinal=70, name="part-3")
    return {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_other_features, "features of earlier items changed"),
        (_other_file, "event file part-0.parquet was changed or removed"),
        (_ordinals_from_the_beginning, "a new event has ordinal 3, which is not behind 59"),
        (_other_surfaces, "surfaces of the dataset changed"),
        (_many_at_the_time_of_a_cut, "a user has more than 8 new events at one time"),
        (lambda _: {"max_interactions_per_user": 9}, "max_interactions_per_user changed from 8"),
        (lambda _: {"end_time": 1030}, "end_time=1030 is before that of the previous batch, 1040"),
    ],
)
def test_a_full_run_where_an_incremental_one_cannot_tell(tmp_path, day, change, reason):
    folder, previous = day
    settings = {"max_interactions_per_user": 8, "end_time": 1060, **change(folder)}
    told: list[str] = []
    report = write(folder, tmp_path / "got", previous=previous, progress=told.append, **settings)
    assert not report.incremental
    assert report.rebuilt_because.startswith(reason)
    assert f"building all sequences anew: {report.rebuilt_because}" in told
    write(folder, tmp_path / "full", **settings)
    assert_same(tmp_path / "got", tmp_path / "full")


def _without_run(previous: Path) -> None:
    (previous / "run.json").unlink()


def _without_a_part(previous: Path) -> None:
    (previous / "part-00001.parquet").unlink()


def _with_a_torn_part(previous: Path) -> None:
    part = previous / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-9])


def _out_of_order(previous: Path) -> None:
    first, second = previous / "part-00000.parquet", previous / "part-00001.parquet"
    first.rename(previous / "part-00002.parquet")
    assert second.exists()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_without_run, "run.json: expected what a batch has read"),
        (_without_a_part, "the previous sequences are not whole"),
        (_with_a_torn_part, "part-00001.parquet: expected readable sequences"),
        (_out_of_order, "part-0000"),
    ],
)
def test_a_damaged_previous_run_is_no_obstacle(tmp_path, day, damage, reason):
    folder, previous = day
    damage(previous)
    report = write(folder, tmp_path / "got", previous=previous, max_interactions_per_user=8)
    assert not report.incremental
    assert reason in report.rebuilt_because
    write(folder, tmp_path / "full", max_interactions_per_user=8)
    assert_same(tmp_path / "got", tmp_path / "full")


def test_appended_features_are_no_reason_to_rebuild(tmp_path, day):
    folder, previous = day
    table = pq.read_table(folder / "features.parquet")
    new = table.slice(0, 1).set_column(0, "key", pa.array([500]))
    pq.write_table(pa.concat_tables([table, new]), folder / "features.parquet", row_group_size=7)
    add_day(folder, [(3, 500, PIN, "save", "home", 1059)], first_ordinal=80, name="part-4")
    settings: dict = {"max_interactions_per_user": 8, "end_time": 1060}
    report = write(folder, tmp_path / "got", previous=previous, **settings)
    assert report.incremental
    write(folder, tmp_path / "full", **settings)
    assert_same(tmp_path / "got", tmp_path / "full")


def test_every_event_is_accounted_for(tmp_path, spark_up):
    """By hand: one event of each fate, in a full run and then in an incremental one."""
    day_one: list[LogRow] = [
        (1, 100, PIN, "save", "home", 900),  # cut
        (1, 101, PIN, "save", "home", 1010),
        (1, 101, PIN, "save", "results", 1010),  # a repeat
        (1, 102, PIN, "click", "nowhere", 1011),  # an unknown surface
        (1, 103, PIN, "hide", "home", 1012),  # ignored
        (1, 104, PIN, "poke", "home", 1013),  # an unknown action
        (1, 105, PIN, "save", "home", 2000),  # after the end
        (2, 106, PIN, "save", "home", 1001),  # forgotten
        (2, 107, PIN, "save", "home", 1002),
        (3, 100, PIN, "save", "home", 1003),  # cut
        (3, 101, PIN, "save", "home", 1004),
        (3, 102, PIN, "save", "home", 1005),
    ]
    folder = write_prepared(tmp_path / "data", day_one)
    table = pq.read_table(folder / "features.parquet")  # the item 107 has no content
    scale = [0.0 if key == 107 else s for key, s in zip(*(table[n].to_pylist() for n in ("key", "scale")), strict=True)]
    pq.write_table(table.set_column(3, "scale", pa.array(scale, pa.float32())), folder / "features.parquet")
    settings: dict = {
        "end_time": 1500, "max_interactions_per_user": 2, "forgotten": {user_store_key(2, IdKind.INT): 1001}
    }  # fmt: skip
    first = write(folder, tmp_path / "run-0", **settings)
    assert first == BatchReport(
        incremental=False, rebuilt_because="", start_time=None, end_time=1500, files_read=2, events_read=12,
        positive=10, queries=0, ignored=1, unknown_action=1, unknown_surface=1, outside_window=1, late=0,
        forgotten=1, repeats=1, cut=2, without_content=1, previous_interactions=0, users=3, interactions=5,
        seconds=first.seconds,
    )  # fmt: skip
    add_day(
        folder,
        [
            (1, 110, PIN, "save", "home", 1012),  # late, and newer than one that is kept
            (3, 102, PIN, "save", "results", 1005),  # late, and a repeat
            (3, 111, PIN, "save", "home", 900),  # late, and older than all that are kept
            (4, 112, PIN, "save", "home", 1600),
            (2, 113, PIN, "save", "home", 1000),  # late and forgotten
            (5, 114, PIN, "save", "home", 9000),  # after the end
        ],
        first_ordinal=12,
        name="part-2",
    )
    settings["end_time"] = 3000
    second = write(folder, tmp_path / "run-1", previous=tmp_path / "run-0", **settings)
    assert second == BatchReport(
        incremental=True, rebuilt_because="", start_time=None, end_time=3000, files_read=1, events_read=7,
        positive=7, queries=0, ignored=0, unknown_action=0, unknown_surface=0, outside_window=1, late=3,
        forgotten=1, repeats=1, cut=3, without_content=0, previous_interactions=5, users=4, interactions=6,
        seconds=second.seconds,
    )  # fmt: skip
    write(folder, tmp_path / "full", **settings)
    assert_same(tmp_path / "run-1", tmp_path / "full")


def test_one_user_with_most_of_the_events(tmp_path, spark_up):
    """200,000 events of one user: only the newest reach a row, and the events are cut before they are collected."""
    rng = np.random.default_rng(0)
    times = 1000 + rng.integers(1_000_000, size=200_000)
    log = [(7, 100 + int(t) % 40, PIN, "save", "home", int(t)) for t in times] + random_log([1, 2], 50)
    folder = write_prepared(tmp_path / "data", log)
    report = write(folder, tmp_path / "run", end_time=2_000_000, max_interactions_per_user=50)
    rows = {row["user_id"]: row for row in rows_of(tmp_path / "run").to_pylist()}
    assert rows[7]["timestamp"] == sorted(set(times.tolist()))[-50:]
    assert report.cut > 100_000
    assert {len(row["item_key"]) for row in rows.values()} <= set(range(51))


def test_tables_may_be_anywhere_that_spark_reads(tmp_path, spark_up):
    """Events and features are given as a URL; the dataset's own folder has only the manifest."""
    elsewhere = write_prepared(tmp_path / "else where", random_log([1, 2, 3], 60))
    dataset = tmp_path / "data"
    dataset.mkdir()
    (elsewhere / "dataset.json").rename(dataset / "dataset.json")
    url = f"file://{elsewhere}"
    write(dataset, tmp_path / "first", end_time=1030, tables=url)
    add_day(elsewhere, [(2, 101, PIN, "save", "home", 1041)], first_ordinal=60, name="part-2")
    assert write(dataset, tmp_path / "second", previous=tmp_path / "first", tables=url).incremental
    write(dataset, tmp_path / "full", tables=url)
    assert_same(tmp_path / "second", tmp_path / "full")
    with pytest.raises(DataError, match="nowhere/events: expected a folder that Spark can read"):
        write(dataset, tmp_path / "third", tables="file:///nowhere")


def test_the_folder_must_be_empty(tmp_path, spark_up):
    folder = write_prepared(tmp_path / "data", random_log([1, 2], 20))
    (tmp_path / "out" / "sub").mkdir(parents=True)
    with pytest.raises(DataError, match=r"out=\S+: expected an empty folder"):
        write_sequences(
            folder, tmp_path / "out", master="local[2]", end_time=1060, lookback_days=None,
            max_interactions_per_user=8, driver_memory="1g", progress=lambda _: None,
        )  # fmt: skip


def test_a_day_that_was_appended_is_read_incrementally(tmp_path, spark_up):
    """From the log to the sequences: a new item and a new query come with the day, and features stay in their place."""
    spec = replace(SPEC, text_encoder="hashed_ngram:16")
    log, day = tmp_path / "log", tmp_path / "day"
    for folder, items in ((log, ITEMS), (day, [{"id": 50, "title": "A new lamp", "category": "light"}])):
        folder.mkdir()
        write_parquet(folder / "items.parquet", items)
    write_parquet(log / "events.parquet", [event(user=u, item=u % 5 + 1, time=T0 + u) for u in range(30)])
    new = [event(user=3, item=50, time=T0 + 100), event(user=4, item=None, action="search", time=T0 + 5, query="lamp"),
           event(user=99, item=1, action="save", time=T0 + 7)]  # fmt: skip
    write_parquet(day / "events.parquet", new)
    dataset = tmp_path / "data"
    prepare_dataset(spec, log, dataset, now=NOW)
    write(dataset, tmp_path / "run-0", end_time=T0 + 30)
    append_events(spec, day, dataset, now=NOW)
    report = write(dataset, tmp_path / "run-1", end_time=T0 + 101, previous=tmp_path / "run-0")
    assert (report.incremental, report.files_read, report.events_read, report.late) == (True, 1, 3, 2)
    write(dataset, tmp_path / "full", end_time=T0 + 101)
    assert_same(tmp_path / "run-1", tmp_path / "full")
