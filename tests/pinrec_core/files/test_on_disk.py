"""Every file and every folder is forced to the disk, what is deepest first."""

from __future__ import annotations

import os

import pytest

from pinrec_core.errors import StorageError
from pinrec_core.files.on_disk import sync_folder, sync_tree


def test_all_of_a_tree_is_forced_the_deepest_first(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/b/file", "a/file", "file"):
        (tmp_path / name).write_text(name)
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor):
        synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), tmp_path))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    sync_tree(tmp_path)
    assert synced == ["a/b/file", "a/b", "a/file", "a", "file", "."]
    sync_folder(tmp_path / "a")
    assert synced[-1] == "a"


def test_a_disk_that_fails_is_named(tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(5, "Input/output error")

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match=r"cannot be forced to the disk \(Input/output error\)"):
        sync_tree(tmp_path)
