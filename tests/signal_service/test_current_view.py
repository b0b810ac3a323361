"""A new snapshot serves without a restart and as a whole, or it is refused and the one before goes on."""

from __future__ import annotations

import datetime
import logging
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from benchmarks.signals.publish_kills import USERS, build_numbered, end_of, number_of, publish_numbered
from pinrec_core.errors import DataError, ReleaseError, StoreError
from pinrec_core.stages.metrics import BATCH_END, SNAPSHOTS
from signal_service.batch_view import BatchView
from signal_service.current_view import LINGER_SECONDS, CurrentView
from signal_service.snapshot_changes import create, prune, publish, rollback
from signal_service.snapshots import list_snapshots, snapshot_folder

PATIENCE = 60.0


class Recorded:
    """Metrics that are kept."""

    def __init__(self) -> None:
        self.values: list[tuple] = []

    def record(self, metric, value=1, *labels):
        self.values.append((metric.name, value, *labels))

    def of(self, metric) -> list:
        return [tuple(rest) for name, *rest in self.values if name == metric.name]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def anything(view: BatchView) -> None:
    pass


@pytest.fixture
def signals(tmp_path: Path) -> Path:
    publish_numbered(tmp_path / "signals", 1)
    return tmp_path / "signals"


def serves(current: CurrentView) -> int:
    (found,) = {number_of(current.view, user) for user in range(0, USERS, 7)}
    return found


def settle(current: CurrentView) -> None:
    """Refresh until a new snapshot, if there is one, has been tried."""
    current.refresh()
    deadline = time.monotonic() + PATIENCE
    while current._opener is not None:
        assert time.monotonic() < deadline
        current._opener.join(0.05)
        current.refresh()


def follow(current: CurrentView, number: int) -> None:
    settle(current)
    assert serves(current) == number


def open_files(folder: Path) -> list[str]:
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return [link for link in links if link.startswith(f"{folder}/")]


def test_a_new_snapshot_serves_and_a_rollback_too(signals):
    metrics = Recorded()
    current = CurrentView(signals, anything, metrics)
    assert serves(current) == 1
    publish_numbered(signals, 2)
    follow(current, 2)
    rollback(signals)
    follow(current, 1)
    settle(current)
    assert metrics.of(SNAPSHOTS) == [(1, "taken")] * 2
    assert metrics.of(BATCH_END) == [(end_of(number),) for number in (1, 2, 1)]
    current.close()


def test_the_view_changes_in_refresh_alone(signals):
    current = CurrentView(signals, anything)
    publish_numbered(signals, 2)
    before = current.view
    current.refresh()
    current._opener.join(PATIENCE)
    assert current.view is before, "opened, and not yet taken"
    current.refresh()
    assert current.view is not before
    assert (number_of(before, 3), number_of(current.view, 3)) == (1, 2), "whoever reads the old one goes on"
    current.close()


def test_refresh_opens_nothing_while_nothing_is_new(signals):
    current = CurrentView(signals, anything)
    before = current.view
    for _ in range(100):
        current.refresh()
        assert current._opener is None
    assert current.view is before
    current.close()


def test_the_old_database_is_closed_when_nobody_reads_it(signals):
    first = snapshot_folder(signals, list_snapshots(signals)[0].name)
    current = CurrentView(signals, anything)
    reader = current.view
    publish_numbered(signals, 2)
    follow(current, 2)
    time.sleep(1.2 * LINGER_SECONDS)
    assert open_files(first / "batch")
    assert prune(signals, keep=1).in_use == [first.name]
    assert number_of(reader, 5) == 1
    del reader
    deadline = time.monotonic() + PATIENCE
    while open_files(first):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert prune(signals, keep=1).removed == [first.name]
    assert serves(current) == 2
    current.close()


def test_a_snapshot_that_does_not_fit_is_refused_once(signals, caplog):
    def check(view: BatchView) -> None:
        if view.info.end_time == end_of(2):
            raise ReleaseError("the signals' outcomes are others")

    metrics, clock = Recorded(), Clock()
    current = CurrentView(signals, check, metrics, monotonic=clock)
    publish_numbered(signals, 2)
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            settle(current)
            clock.now += 1e6
    assert serves(current) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "a new snapshot is refused, the one before goes on serving: the signals' outcomes are others"
    ]
    assert metrics.of(SNAPSHOTS) == [(1, "refused")]
    publish_numbered(signals, 3)
    follow(current, 3)
    assert metrics.of(SNAPSHOTS) == [(1, "refused"), (1, "taken")]
    current.close()


def test_a_refused_snapshot_that_is_taken_back(signals):
    def check(view: BatchView) -> None:
        if view.info.end_time == end_of(2):
            raise ReleaseError("no")

    metrics = Recorded()
    current = CurrentView(signals, check, metrics)
    before = current.view
    publish_numbered(signals, 2)
    settle(current)
    rollback(signals)
    settle(current)
    assert current.view is before, "it is open already"
    assert metrics.of(SNAPSHOTS) == [(1, "refused")]
    current.close()


@pytest.mark.parametrize("error", [StoreError("the disk is away"), ZeroDivisionError("unforeseen")])
def test_one_that_could_not_be_read_is_tried_again(signals, caplog, error):
    failing = False

    def check(view: BatchView) -> None:
        if failing:
            raise error

    metrics, clock = Recorded(), Clock()
    current = CurrentView(signals, check, metrics, retry_seconds=30, monotonic=clock)
    publish_numbered(signals, 2)
    failing = True
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            settle(current)
            clock.now += 31
    assert serves(current) == 1
    assert len(caplog.records) == 1
    assert (caplog.records[0].exc_info is None) == isinstance(error, StoreError), "unforeseen: with its trace"
    failing = False
    follow(current, 2)
    assert metrics.of(SNAPSHOTS) == [(1, "refused"), (1, "taken")]
    current.close()


def test_a_damaged_snapshot_is_refused(signals, caplog):
    current = CurrentView(signals, anything)
    made = create(signals, lambda folder: build_numbered(folder, 2), end_time=end_of(2), now=now())
    name = publish(signals, made.name).name
    part = next((snapshot_folder(signals, name) / "sequences").glob("part-*"))
    part.write_bytes(part.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        settle(current)
    assert serves(current) == 1
    assert "the snapshot is damaged" in caplog.text
    with pytest.raises(DataError, match="the snapshot is damaged"):
        CurrentView(signals, anything)
    current.close()


def test_signals_that_vanish_and_come_back(signals, tmp_path, caplog):
    current = CurrentView(signals, anything)
    with caplog.at_level(logging.WARNING):
        signals.rename(tmp_path / "away")
        settle(current)
        assert serves(current) == 1
        (tmp_path / "away").rename(signals)
        settle(current)
    assert len(caplog.records) == 1
    assert "the one before goes on serving" in caplog.text
    publish_numbered(signals, 2)
    follow(current, 2)
    current.close()


def test_plain_folders_serve_and_become_snapshots_meanwhile(tmp_path):
    signals = tmp_path / "signals"
    signals.mkdir()
    build_numbered(signals, 1)
    current = CurrentView(signals, anything)
    assert serves(current) == 1
    publish_numbered(signals, 2)
    follow(current, 2)
    rollback(signals)
    follow(current, 1)
    current.close()


def test_a_plain_folder_that_is_replaced(tmp_path):
    """As by the tools of before there were snapshots."""
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        build_numbered(tmp_path / str(number), number)
    current = CurrentView(tmp_path / "1", anything)
    shutil.rmtree(tmp_path / "1" / "batch")
    (tmp_path / "2" / "batch").rename(tmp_path / "1" / "batch")
    follow(current, 2)
    current.close()


def test_a_copy_whose_links_became_folders_serves(signals, tmp_path):
    shutil.copytree(signals, tmp_path / "copy")
    current = CurrentView(tmp_path / "copy", anything)
    assert serves(current) == 1
    current.close()


def test_the_first_view_has_to_fit(signals, tmp_path):
    def check(view: BatchView) -> None:
        raise ReleaseError("no")

    with pytest.raises(ReleaseError):
        CurrentView(signals, check)
    assert open_files(signals) == []
    with pytest.raises(DataError):
        CurrentView(tmp_path / "nothing", anything)


def test_many_snapshots_under_readers(signals):
    """Readers see whole snapshots, and newer ones as time passes, while one is published after the other."""
    current = CurrentView(signals, anything)
    done, failed, seen = threading.Event(), [], []

    def read() -> None:
        while not done.is_set():
            view = current.view
            try:
                found = {number_of(view, user) for user in range(0, USERS, 5)}
                assert len(found) == 1
                seen.extend(found)
            except Exception as error:
                failed.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(2, 7):
        publish_numbered(signals, number)
        prune(signals, keep=1)
        follow(current, number)
    done.set()
    reader.join()
    assert not failed
    assert seen == sorted(seen)
    current.close()


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
