"""Snapshots are made, switched and removed. Whatever fails or is killed, a whole one serves and the next run succeeds.

Their histories hold the number of their snapshot (``publish_kills``), so that a mixture of two would be noticed.
"""

from __future__ import annotations

import datetime
import os
import shutil
import threading
from pathlib import Path

import pytest

from benchmarks.signals import publish_kills
from benchmarks.signals.publish_kills import build_numbered, end_of, publish_numbered, serving_number
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.errors import ConfigError, DataError
from signal_service import snapshot_changes
from signal_service.snapshot_changes import WRITTEN_BY_READERS, create, prune, publish, rollback
from signal_service.snapshots import (
    Snapshot,
    current_name,
    current_snapshot,
    list_snapshots,
    open_snapshot,
    snapshot_folder,
    using_snapshot,
)
from tests.signal_service.stepwise_kill import killed_publish, steps_of_publish

NOW = datetime.datetime(2099, 11, 27, tzinfo=datetime.UTC)  # after all that is made beside it, which has the real time


@pytest.fixture
def signals(tmp_path: Path) -> Path:
    return tmp_path / "signals"


@pytest.fixture
def plain(signals: Path) -> Path:
    """Signals as they were before there were snapshots, of number 1."""
    signals.mkdir()
    build_numbered(signals, 1)
    return signals


def names(signals: Path) -> list[str]:
    return [one.name for one in list_snapshots(signals)]


def number_in(folder: Path) -> int:
    return int(next(iter_histories(folder / "sequences"))[1].item_key[0])


def nothing_left(signals: Path) -> None:
    assert not [path for path in signals.iterdir() if path.name.startswith(".")]
    hidden = [path.name for path in (signals / "snapshots").iterdir() if path.name.startswith(".")]
    assert hidden == [".lock"]


def test_the_first_snapshot_of_an_empty_folder(signals):
    name = publish_numbered(signals, 1)
    assert name == "20231115T221320-1"
    assert serving_number(signals) == 1
    snapshot = current_snapshot(signals)
    assert (snapshot.end_time, snapshot.start_time, snapshot.parent, snapshot.replaces) == (end_of(1), None, None, None)
    assert (snapshot.num_users, snapshot.num_interactions) == (64, 64 * 12)
    assert snapshot.bytes == sum(
        path.stat().st_size
        for path in snapshot_folder(signals, name).rglob("*")
        if path.is_file() and path.name not in ("snapshot.json", *WRITTEN_BY_READERS)
    )
    for link in ("sequences", "batch", "dataset.json"):
        assert os.readlink(signals / link) == f"current/{link}"
    assert os.readlink(signals / "current") == f"snapshots/{name}"
    nothing_left(signals)


def test_the_folder_can_be_moved(signals, tmp_path):
    """As `pinrec prepare` does, which builds a dataset beside its place."""
    publish_numbered(signals, 1)
    signals.rename(tmp_path / "elsewhere")
    assert serving_number(tmp_path / "elsewhere") == 1


def test_a_second_batch_of_the_same_end_has_the_next_serial(signals):
    assert [publish_numbered(signals, 1)[-2:] for _ in range(3)] == ["-1", "-2", "-3"]


def test_the_callback_names_the_parent_and_the_caller_the_window(signals):
    first = publish_numbered(signals, 1)

    def build(folder):
        build_numbered(folder, 2)
        return first

    made = create(signals, build, end_time=end_of(2), start_time=end_of(1), now=NOW)
    assert (made.parent, made.replaces, made.start_time, made.created) == (
        first, first, end_of(1), "2099-11-27T00:00:00+00:00",
    )  # fmt: skip
    assert Snapshot.load(snapshot_folder(signals, made.name)) == made
    assert serving_number(signals) == 1, "a snapshot that is made does not serve yet"


@pytest.mark.parametrize("missing", ["sequences/batch.json", "batch/batch.json", "dataset.json"])
def test_a_build_that_is_not_whole_is_refused(signals, missing):
    publish_numbered(signals, 1)

    def build(folder):
        build_numbered(folder, 2)
        (folder / missing).unlink()

    with pytest.raises(DataError):
        create(signals, build, end_time=end_of(2), now=NOW)
    assert len(names(signals)) == 1
    assert serving_number(signals) == 1
    nothing_left(signals)


def test_a_build_of_another_time_is_refused(signals):
    with pytest.raises(DataError, match="end_time of what was built=1700172800: expected 5"):
        create(signals, lambda folder: build_numbered(folder, 2), end_time=5, now=NOW)


def test_a_build_that_fails_leaves_nothing(signals):
    def build(folder):
        (folder / "sequences").mkdir()
        raise DataError("the log is damaged")

    publish_numbered(signals, 1)
    with pytest.raises(DataError, match="the log is damaged"):
        create(signals, build, end_time=end_of(2), now=NOW)
    assert serving_number(signals) == 1
    nothing_left(signals)


def test_one_process_at_a_time_makes_snapshots_and_a_rollback_does_not_wait_for_it(signals):
    first, second = publish_numbered(signals, 1), publish_numbered(signals, 2)
    building, go_on = threading.Event(), threading.Event()

    def build(folder):
        build_numbered(folder, 3)
        building.set()
        assert go_on.wait(60)

    thread = threading.Thread(target=create, args=(signals, build), kwargs={"end_time": end_of(3), "now": NOW})
    thread.start()
    try:
        assert building.wait(60)
        with pytest.raises(ConfigError, match="expected no other process to publish into it"):
            publish_numbered(signals, 4)
        assert rollback(signals)[1].name == first
        assert prune(signals, keep=1).left_overs == [], "what is being built is no left-over"
    finally:
        go_on.set()
        thread.join()
    assert [name[:8] for name in names(signals)] == ["20231117", second[:8], first[:8]]
    assert serving_number(signals) == 1


def test_rollback_goes_back_along_what_was_replaced(signals):
    first, second = publish_numbered(signals, 1), publish_numbered(signals, 2)
    third = publish_numbered(signals, 3)
    assert rollback(signals)[0] == third
    assert serving_number(signals) == 2
    fourth = publish_numbered(signals, 4)
    assert rollback(signals) == (fourth, open_snapshot(signals, second)), "and not to the third, which was taken back"
    assert rollback(signals)[1].name == first
    assert serving_number(signals) == 1
    with pytest.raises(DataError, match="expected one that replaced another; --to names one of"):
        rollback(signals)
    assert rollback(signals, third)[1].name == third
    assert serving_number(signals) == 3


def test_rollback_to_what_is_not_there_or_damaged_changes_nothing(signals):
    first, second = publish_numbered(signals, 1), publish_numbered(signals, 2)
    for wrong in ("20231117T221320-1", "../elsewhere", ""):
        with pytest.raises(DataError, match=r"snapshot='.*': expected one of \['2023"):
            rollback(signals, wrong)
    part = next((snapshot_folder(signals, first) / "sequences").glob("part-*"))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{first}, which {second} replaced, is gone or damaged"):
        rollback(signals)
    with pytest.raises(DataError, match="the snapshot is damaged"):
        rollback(signals, first)
    assert serving_number(signals) == 2


def test_rollback_from_a_snapshot_whose_description_is_lost(signals):
    publish_numbered(signals, 1)
    publish_numbered(signals, 2)
    third = publish_numbered(signals, 3)
    (snapshot_folder(signals, third) / "snapshot.json").unlink()
    rollback(signals)
    assert serving_number(signals) == 2


def test_rollback_without_snapshots(plain):
    with pytest.raises(DataError, match="expected a current snapshot"):
        rollback(plain)
    assert serving_number(plain) == 1


def test_a_snapshot_that_lost_a_file_is_not_published(signals):
    publish_numbered(signals, 1)
    made = create(signals, lambda folder: build_numbered(folder, 2), end_time=end_of(2), now=NOW)
    (snapshot_folder(signals, made.name) / "batch" / "batch.json").unlink()
    with pytest.raises(DataError, match="No such file"):
        publish(signals, made.name)
    assert serving_number(signals) == 1
    assert list_snapshots(signals)[0].problem is not None


def test_what_a_reader_writes_is_no_damage(signals):
    """A process that is killed while it opens the view may leave this file empty."""
    name = publish_numbered(signals, 1)
    (signals / "batch" / "users" / "rocksdict-config.json").write_text("")
    open_snapshot(signals, name)
    assert serving_number(signals) == 1


def test_prune_keeps_the_newest_the_current_one_and_those_in_use(signals):
    made = [publish_numbered(signals, number) for number in range(1, 8)]
    rollback(signals, made[0])
    with using_snapshot(snapshot_folder(signals, made[1])):
        done = prune(signals, keep=2)
    assert (sorted(done.removed), done.in_use) == (made[2:5], [made[1]])
    assert done.bytes > 0
    assert sorted(names(signals)) == [made[0], made[1], *made[5:]]
    assert prune(signals, keep=2).removed == [made[1]]
    assert serving_number(signals) == 1
    assert prune(signals, keep=2).removed == []
    with pytest.raises(ConfigError, match="keep=0: expected at least 1"):
        prune(signals, keep=0)


def test_prune_removes_what_is_unfinished_and_leaves_what_it_does_not_know(signals):
    name = publish_numbered(signals, 1)
    shutil.copytree(snapshot_folder(signals, name), half := snapshot_folder(signals, "20231116T221320-1"))
    (half / "snapshot.json").unlink()
    shutil.copytree(snapshot_folder(signals, name), newer := snapshot_folder(signals, "20231117T221320-1"))
    (newer / "snapshot.json").write_text('{"format": 2}')
    (signals / "snapshots" / "my own").mkdir()
    (signals / "realtime").mkdir()
    listed = {one.name: (one.finished, one.problem is None, one.current) for one in list_snapshots(signals)}
    assert listed == {name: (True, True, True), half.name: (False, False, False), newer.name: (True, False, False)}
    assert prune(signals, keep=1).removed == [half.name]
    assert newer.is_dir()
    assert (signals / "snapshots" / "my own").is_dir()
    assert (signals / "realtime").is_dir()


def test_damaged_snapshots_do_not_count_as_kept(signals):
    made = [publish_numbered(signals, number) for number in range(1, 5)]
    (snapshot_folder(signals, made[2]) / "dataset.json").write_text("{}")
    assert prune(signals, keep=2).removed == [made[0]]
    assert sorted(names(signals)) == made[1:]


def test_plain_folders_become_the_first_snapshot(plain):
    assert serving_number(plain) == 1
    assert list_snapshots(plain) == []
    inode = (plain / "sequences" / "batch.json").stat().st_ino
    second = publish_numbered(plain, 2)
    assert serving_number(plain) == 2
    before, now = rollback(plain)
    assert (before, now.name, now.start_time) == (second, "20231115T221320-1", None)
    assert serving_number(plain) == 1
    assert (plain / "sequences" / "batch.json").stat().st_ino == inode, "linked and not copied"
    nothing_left(plain)


def test_plain_folders_serve_on_when_the_first_build_fails(plain):
    def build(folder):
        raise DataError("no Spark")

    with pytest.raises(DataError):
        create(plain, build, end_time=end_of(2), now=NOW)
    assert serving_number(plain) == 1
    assert current_name(plain) == "20231115T221320-1"


@pytest.mark.parametrize("left", ["sequences", "batch"])
def test_half_of_the_plain_folders_is_replaced(plain, left):
    """Such a folder cannot serve, so it is nothing to go back to."""
    shutil.rmtree(plain / {"sequences": "batch", "batch": "sequences"}[left])
    publish_numbered(plain, 2)
    assert serving_number(plain) == 2
    assert len(names(plain)) == 1


def test_plain_folders_of_two_batches_are_replaced(plain, tmp_path):
    (tmp_path / "other").mkdir()
    build_numbered(tmp_path / "other", 7)
    shutil.rmtree(plain / "sequences")
    shutil.move(tmp_path / "other" / "sequences", plain / "sequences")
    publish_numbered(plain, 8)
    assert serving_number(plain) == 8
    assert len(names(plain)) == 1


def test_a_copy_without_links_is_refused_with_the_way_out(signals, tmp_path):
    publish_numbered(signals, 1)
    shutil.copytree(signals, tmp_path / "copy")
    with pytest.raises(DataError, match=r"copy them again with their links, as `cp -a` does"):
        publish_numbered(tmp_path / "copy", 2)
    assert serving_number_of_copy(tmp_path / "copy") == 1


def serving_number_of_copy(signals: Path) -> int:
    """Reading takes no notice of how the folder came about."""
    DatasetManifest.load(signals)
    return number_in(signals)


def test_a_whole_pass_over_the_sequences_is_of_one_snapshot(signals):
    publish_numbered(signals, 1)
    histories = iter_histories(signals / "sequences", batch_users=8)
    seen = [int(next(histories)[1].item_key[0])]
    publish_numbered(signals, 2)
    seen += [int(history.item_key[0]) for _, history in histories]
    assert seen == [1] * 64


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("layout", "stride"), [("plain", 2), ("snapshots", 1)])
def test_killed_step_by_step(tmp_path, layout, stride):
    """Before every change of the file system; before every second one where plain folders become a snapshot first."""
    origin = tmp_path / "origin" / "signals"
    origin.mkdir(parents=True)
    if layout == "plain":
        build_numbered(origin, 1)
    else:
        publish_numbered(origin, 1)
    shutil.copytree(origin, tmp_path / "counted" / "signals", symlinks=True)
    steps = steps_of_publish(tmp_path / "counted" / "signals", 2)
    assert steps > 10
    outcomes = []
    for step in range(1, steps + 1, stride):
        signals = tmp_path / str(step) / "signals"
        shutil.copytree(origin, signals, symlinks=True)
        killed_publish(signals, 2, step)
        outcomes.append(serving_number(signals, f"step {step}"))
        publish_numbered(signals, 3)
        assert serving_number(signals, f"step {step}") == 3
        prune(signals, keep=1)
        assert len(names(signals)) == 1
        nothing_left(signals)
        shutil.rmtree(signals)
    assert outcomes[0] == 1
    assert outcomes == sorted(outcomes), "once the new one serves, it goes on"
    assert set(outcomes) <= {1, 2}


@pytest.mark.timeout(900)
def test_killed_at_random_points(tmp_path):
    counts = publish_kills.run(tmp_path, rounds=8, seed=16)
    assert counts.rounds == counts.next_run_succeeded == counts.previous_served + counts.new_served == 8
    assert counts.from_plain_folders > 0


def test_the_kills_would_notice_a_publish_that_is_not_atomic(tmp_path, monkeypatch):
    """The reader of the test finds a mixture of two snapshots."""
    signals = tmp_path / "signals"
    publish_numbered(signals, 1)
    other = create(signals, lambda folder: build_numbered(folder, 2), end_time=end_of(2), now=NOW)
    snapshot_changes.point(signals / "batch", f"snapshots/{other.name}/batch")
    with pytest.raises(publish_kills.PublishBrokenError, match=r"expected one|of another"):
        serving_number(signals)
