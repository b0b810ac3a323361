"""The description of a snapshot refuses what is none, and names are ordered as the batches are."""

from __future__ import annotations

import pytest

from benchmarks.signals.publish_kills import publish_numbered
from pinrec_core.errors import DataError
from signal_service.snapshots import (
    Snapshot,
    current_name,
    current_snapshot,
    is_name,
    list_snapshots,
    name_for,
    name_order,
    open_snapshot,
    using_snapshot,
)

WHOLE = {
    "name": "20261127T000000-1", "end_time": 1_795_737_600, "start_time": None, "num_users": 3, "num_interactions": 9,
    "created": "2026-11-27T03:00:00+00:00", "parent": None, "replaces": None, "files": {"batch/batch.json": 5, "x": 7},
}  # fmt: skip


def test_a_description_is_read_back(tmp_path):
    folder = tmp_path / "20261127T000000-1"
    folder.mkdir()
    snapshot = Snapshot(**WHOLE)
    snapshot.save(folder)
    assert Snapshot.load(folder) == snapshot
    assert snapshot.bytes == 12
    folder.rename(tmp_path / "20261127T000000-2")
    with pytest.raises(DataError, match="expected '20261127T000000-2', as the folder is named"):
        Snapshot.load(tmp_path / "20261127T000000-2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../elsewhere"}, "name='../elsewhere': expected the end of a batch and a serial"),
        ({"name": "20261127T000000-0"}, "name="),
        ({"num_users": -1}, "num_users=-1: expected a value of at least 0"),
        ({"created": "yesterday"}, "created='yesterday': expected a time with its zone"),
        ({"created": "2026-11-27T03:00:00"}, "created="),
        ({"files": {"/etc/passwd": 1}}, "expected the size of a file in the snapshot"),
        ({"files": {"../x": 1}}, "expected the size of a file in the snapshot"),
        ({"files": {"x": -1}}, "expected the size of a file in the snapshot"),
        ({"format": 2}, "format=2: expected"),
        ({"colour": "red"}, "expected only"),
    ],
)
def test_what_is_no_description_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        Snapshot(**(WHOLE | change))


def test_a_damaged_file_is_noticed(tmp_path):
    (tmp_path / "batch").mkdir()
    (tmp_path / "batch" / "batch.json").write_text("12345")
    (tmp_path / "x").write_text("1234567")
    snapshot = Snapshot(**WHOLE)
    snapshot.check_files(tmp_path)
    (tmp_path / "x").write_text("123456")
    with pytest.raises(DataError, match="6 bytes, expected 7: the snapshot is damaged"):
        snapshot.check_files(tmp_path)
    (tmp_path / "x").unlink()
    with pytest.raises(DataError, match="expected 7 bytes"):
        snapshot.check_files(tmp_path)


def test_names_are_ordered_by_the_end_and_then_the_serial(tmp_path):
    names = ["20261127T000000-2", "20261128T000000-1", "20261127T000000-10"]
    assert sorted(names, key=name_order) == ["20261127T000000-2", "20261127T000000-10", "20261128T000000-1"]
    for name in names:
        (tmp_path / "snapshots" / name).mkdir(parents=True)
    assert name_for(tmp_path, 1_795_737_600) == "20261127T000000-11"
    assert name_for(tmp_path, 0) == "19700101T000000-1"
    assert name_for(tmp_path, -50_000_000_000) == "03850725T070640-1"
    with pytest.raises(DataError, match="end_time=1000000000000: expected Unix seconds"):
        name_for(tmp_path, 10**12)
    assert not any(map(is_name, ("20261127-1", "20261127T000000", "20261127T000000-1 ", "-1", "")))


def test_folders_without_snapshots(tmp_path):
    assert current_name(tmp_path) is None
    assert current_snapshot(tmp_path) is None
    assert list_snapshots(tmp_path) == []
    with pytest.raises(DataError, match="expected a folder of batch signals"):
        list_snapshots(tmp_path / "nothing")
    with pytest.raises(DataError, match="snapshot='20261127T000000-1': expected one of \\[\\]"):
        open_snapshot(tmp_path, "20261127T000000-1")
    with pytest.raises(DataError, match="there is none any more"), using_snapshot(tmp_path / "nothing"):
        pass


@pytest.mark.parametrize("target", ["elsewhere", "snapshots/latest", "/snapshots/20261127T000000-1"])
def test_a_pointer_to_something_else_is_refused(tmp_path, target):
    (tmp_path / "current").symlink_to(target)
    with pytest.raises(DataError, match="expected snapshots/ and the name of a snapshot"):
        current_name(tmp_path)


def test_the_list_says_which_is_current_and_which_is_in_use(tmp_path):
    first, second = (publish_numbered(tmp_path, number) for number in (1, 2))
    with using_snapshot(tmp_path / "snapshots" / first):
        listed = list_snapshots(tmp_path)
    assert [(one.name, one.current, one.in_use, one.problem) for one in listed] == [
        (second, True, False, None), (first, False, True, None),
    ]  # fmt: skip
