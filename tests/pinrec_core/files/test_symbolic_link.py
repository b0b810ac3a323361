"""A link moves in one step and takes the place of a folder; what a killed call leaves is found."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from pinrec_core.files import symbolic_link as module
from pinrec_core.files.held_folder import left_overs
from pinrec_core.files.symbolic_link import point, remove_left_over_links


def make_folders(place, *names):
    for name in names:
        (place / name).mkdir()
        (place / name / "mark").write_text(name)


def test_a_link_is_made_and_moved(tmp_path):
    make_folders(tmp_path, "one", "two")
    for target in ("one", "two", "two"):
        point(tmp_path / "link", target)
        assert os.readlink(tmp_path / "link") == target
        assert (tmp_path / "link" / "mark").read_text() == target
    assert sorted(os.listdir(tmp_path)) == ["link", "one", "two"]


@pytest.mark.parametrize("offered", [True, False])
def test_it_takes_the_place_of_a_folder_and_of_a_file(tmp_path, monkeypatch, offered):
    if not offered:
        monkeypatch.setattr(module, "exchange", lambda one, other: False)
    make_folders(tmp_path, "one", "folder")
    (tmp_path / "file").write_text("plain")
    for name in ("folder", "file"):
        point(tmp_path / name, "one")
        assert (tmp_path / name / "mark").read_text() == "one"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "one"]


def test_a_reader_finds_one_or_the_other_at_every_moment(tmp_path):
    make_folders(tmp_path, "one", "two")
    point(tmp_path / "link", "one")
    done, found = threading.Event(), set()

    def read():
        while not done.is_set():
            found.add((tmp_path / "link" / "mark").read_text())  # an absent link would end the thread with an error

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(200):
        point(tmp_path / "link", ("two", "one")[i % 2])
    done.set()
    reader.join()
    assert found <= {"one", "two"}
    assert found


KILLED = """
import os, signal, sys
from pathlib import Path
from pinrec_core.files import symbolic_link as module
name, target = sys.argv[1:]
module.{step} = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
module.point(Path(name), target)
"""


@pytest.mark.parametrize("step", ["exchange", "sync_folder", "shutil.rmtree"])
def test_what_a_killed_call_leaves_is_found_and_the_next_call_succeeds(tmp_path, step):
    make_folders(tmp_path, "one", "folder")
    code = KILLED.format(step=step)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "folder"), "one"], timeout=60)
    assert done.returncode == -9
    assert (tmp_path / "folder" / "mark").is_file()
    point(tmp_path / "folder", "one")
    assert (tmp_path / "folder" / "mark").read_text() == "one"
    left = [*remove_left_over_links(tmp_path), *left_overs(tmp_path)]
    assert len(left) == 1
    assert (tmp_path / "one" / "mark").is_file()
