"""A folder that a process holds stays, and goes with its holder's end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pinrec_core.files.held_folder import holding, is_held, left_overs, remove_unheld

HOLDER = """
import sys
from pathlib import Path
from pinrec_core.files.held_folder import holding
with holding(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    (made / "file").write_text("content")
    return made


def test_what_another_process_holds_stays_until_that_is_killed(folder):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    assert is_held(folder)
    assert not remove_unheld(folder)
    with holding(folder):  # together with the other one
        assert (folder / "file").read_text() == "content"
    holder.kill()
    holder.communicate()
    assert not is_held(folder)
    assert remove_unheld(folder)
    assert list(folder.parent.iterdir()) == []


def test_a_folder_without_write_permission_is_held_too(folder):
    folder.chmod(0o555)
    with holding(folder):
        assert is_held(folder)
    folder.chmod(0o755)


def test_what_is_gone_cannot_be_held(folder):
    assert remove_unheld(folder)
    assert remove_unheld(folder)  # by another process, say
    with pytest.raises(FileNotFoundError), holding(folder):
        pass


def test_left_overs_are_the_unfinished_folders_that_nobody_holds(tmp_path):
    names = [".release-building-0123456789ab", ".release-removing-0123456789ab", ".release-building-ba9876543210"]
    for name in (*names, "release", ".release-building-short"):
        (tmp_path / name).mkdir()
    (tmp_path / ".file-building-0123456789ab").write_text("")
    with holding(tmp_path / names[2]):
        assert left_overs(tmp_path) == [tmp_path / name for name in names[:2]]
    assert left_overs(tmp_path) == sorted(tmp_path / name for name in names)
