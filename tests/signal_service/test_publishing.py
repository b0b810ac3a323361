"""From a prepared dataset to a snapshot that serves, with the real Spark job."""

from __future__ import annotations

import datetime
from contextlib import closing

import pytest

from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.dataset.manifest import SEQUENCES, DatasetManifest
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.errors import DataError, StoreError
from pinrec_core.ids import IdKind, user_store_key
from signal_service import publishing
from signal_service.batch_job import run_batch_job
from signal_service.batch_report import BatchReport
from signal_service.batch_view import BatchView
from signal_service.event_stores import forgotten_users, open_writer
from signal_service.publishing import publish_batch
from signal_service.snapshot_changes import rollback
from signal_service.snapshots import list_snapshots
from signal_service.view_writing import build_batch_view
from tests.signal_service.builders import EVENTS, expected_sequences, write_prepared

pytestmark = pytest.mark.spark
NOW = datetime.datetime(2026, 11, 27, tzinfo=datetime.UTC)


def rows_of(dataset) -> dict:
    names = ("item_key", "item_type", "outcome", "surface", "timestamp")
    return {
        user: list(zip(*(getattr(history, name).tolist() for name in names), strict=True))
        for user, history in iter_histories(dataset / SEQUENCES)
    }


def check_view(dataset) -> None:
    view = BatchView.open(dataset / "signals")
    for user, history in iter_histories(dataset / SEQUENCES):
        assert view.get(user_store_key(user, IdKind.INT)).item_key.tolist() == history.item_key.tolist()
    view.close()


def test_two_batches_and_back(tmp_path, spark_up):
    dataset = write_prepared(tmp_path / "dataset", EVENTS)
    told: list = []
    first = publish_batch(
        dataset, now=NOW, end_time=1050, lookback_days=1, progress=lambda *step: told.append(step)
    )  # fmt: skip
    assert rows_of(dataset) == expected_sequences(EVENTS, end=1050)
    check_view(dataset)
    assert (first.name, first.end_time, first.start_time) == ("19700101T001730-1", 1050, 1050 - 86_400)
    assert {step[0] for step in told} == {
        "building sequences with Spark", "building the batch view", "writing to the disk",
    }  # fmt: skip
    second = publish_batch(dataset, now=NOW)
    assert second.replaces == first.name
    assert rows_of(dataset) == expected_sequences(EVENTS)
    assert DatasetManifest.load(dataset / "signals") == DatasetManifest.load(dataset)
    check_view(dataset)
    rollback(dataset / "signals")
    assert rows_of(dataset) == expected_sequences(EVENTS, end=1050)
    assert not [path for path in (dataset / "signals").rglob(".*") if path.name != ".lock" and path.suffix != ".crc"]


def test_a_dataset_of_before_there_were_snapshots(tmp_path, spark_up):
    dataset = write_prepared(tmp_path / "dataset", EVENTS)
    run_batch_job(dataset, end_time=1050)
    build_batch_view(dataset / "signals")
    assert BatchInfo.load(dataset / SEQUENCES).end_time == 1050
    publish_batch(dataset, now=NOW)
    assert rows_of(dataset) == expected_sequences(EVENTS)
    rollback(dataset / "signals")
    assert rows_of(dataset) == expected_sequences(EVENTS, end=1050)
    check_view(dataset)


def test_a_run_that_fails_after_the_job_changes_nothing(tmp_path, spark_up, monkeypatch):
    dataset = write_prepared(tmp_path / "dataset", EVENTS)
    publish_batch(dataset, now=NOW, end_time=1050)

    def full_disk(*arguments, **options):
        raise StoreError("no space left")

    monkeypatch.setattr(publishing, "write_view", full_disk)
    with pytest.raises(StoreError, match="no space left"):
        publish_batch(dataset, now=NOW, incremental=False)
    assert rows_of(dataset) == expected_sequences(EVENTS, end=1050)
    assert len(list_snapshots(dataset / "signals")) == 1
    assert sorted(path.name for path in (dataset / "signals" / "snapshots").iterdir()) == [
        ".lock", "19700101T001730-1",
    ]  # fmt: skip


@pytest.mark.parametrize("change", [{"end_time": 5}, {"lookback_days": 0}, {"max_interactions_per_user": 0}])
def test_settings_that_cannot_be_are_refused(tmp_path, change):
    dataset = write_prepared(tmp_path / "dataset", EVENTS)
    with pytest.raises(DataError, match=f"{next(iter(change))}=.*: expected"):
        publish_batch(dataset, now=NOW, **change)
    assert not (dataset / "signals" / "current").exists()


def test_an_incremental_batch_names_its_parent(tmp_path, spark_up):
    dataset = write_prepared(tmp_path / "dataset", EVENTS)
    first = publish_batch(dataset, now=NOW, end_time=1050)
    second = publish_batch(dataset, now=NOW)
    assert (first.parent, second.parent) == (None, first.name)
    assert rows_of(dataset) == expected_sequences(EVENTS)
    assert publish_batch(dataset, now=NOW, incremental=False).parent is None
    assert BatchReport.load(dataset / "signals" / "current").incremental is False


def test_who_asked_to_be_forgotten_is_left_out(tmp_path, spark_up):
    dataset = write_prepared(tmp_path / "dataset", EVENTS)
    publish_batch(dataset, now=NOW, end_time=1050)
    assert 42 in rows_of(dataset)
    with closing(open_writer(dataset / "signals" / "realtime")) as store:
        store.forget(user_store_key(42, IdKind.INT), at=10_000)
    publish_batch(dataset, now=NOW, forgotten=forgotten_users(dataset / "signals" / "realtime"))
    assert sorted(rows_of(dataset)) == [-3, 7, 99]
