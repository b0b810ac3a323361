"""A temporary folder is removed with its process, even if the process is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pinrec_core.files.temporary_folder import TemporaryFolder

PREFIX = "pinrec-test-"
HOLDER = """
import sys, tempfile
from pinrec_core.files.temporary_folder import TemporaryFolder
tempfile.tempdir = sys.argv[1]
print(TemporaryFolder(sys.argv[2]).path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_closing_removes_it_once(place):
    folder = TemporaryFolder(PREFIX)
    (folder.path / "file").write_text("content")
    folder.close()
    folder.close()
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_holds_is_not(place):
    other = place / "somebody-elses"
    other.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(place), PREFIX], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    held = Path(holder.stdout.readline().strip())
    first = TemporaryFolder(PREFIX)
    assert held.is_dir()
    holder.kill()
    holder.communicate()
    assert held.is_dir()
    second = TemporaryFolder(PREFIX)
    assert set(place.iterdir()) == {other, first.path, second.path}
    first.close()
    second.close()


def test_a_child_that_has_the_lock_holds_it_too(place):
    folder = TemporaryFolder(PREFIX)
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(folder.lock,))
    os.close(folder.lock)  # as when the owner was killed
    TemporaryFolder(PREFIX).close()
    assert folder.path.is_dir()
    child.communicate()
    TemporaryFolder(PREFIX).close()
    assert not folder.path.exists()
