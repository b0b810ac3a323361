"""An output folder appears whole or not at all, and a killed process costs neither the folder nor disk space."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pinrec_core.errors import DataError
from pinrec_core.files import output_folder as module
from pinrec_core.files.output_folder import built_beside, output_folder

PRELUDE = """
import os, signal, sys
from pathlib import Path
from pinrec_core.files import output_folder as module
target, step, way = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
if way == "renames":
    module._renameat2 = None

def killed_around(call):
    '''The call, with a SIGKILL of this process "before" or "after" it.'''
    def dying(*args):
        if step == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if call(*args):
            os.kill(os.getpid(), signal.SIGKILL)
    return dying

def build(content):
    with module.built_beside(target) as folder:
        for name in "abc":
            (folder / name).write_text(content)
        (folder / "mark").write_text(content)
        print(folder, flush=True)
        if step == "waits":
            sys.stdin.readline()
"""
REPLACED_BY_A_KILLED_ONE = PRELUDE + "module.exchange = killed_around(module.exchange)\nbuild('second')"
KILLED_BETWEEN_THE_RENAMES = PRELUDE + "Path.rename = killed_around(Path.rename)\nbuild('second')"
"""``Path.rename`` returns the new path, so the process dies after the first one."""
BUILDER = PRELUDE + "build('second')"
REPEATED = PRELUDE + "for number in range(int(step)):\n    build(f'{os.getpid()} {number}')"


@pytest.fixture(params=["exchange", "renames"])
def way(request, monkeypatch, tmp_path) -> str:
    """How a folder takes the place of another one; the second way is that of kernels without the first."""
    if request.param == "renames":
        monkeypatch.setattr(module, "_renameat2", None)
    else:
        need_exchange(tmp_path)
    return request.param


def need_exchange(place: Path) -> None:
    for name in ("one", "other"):
        (place / name).mkdir()
    (place / "one" / "mark").write_text("")
    offered = module.exchange(place / "one", place / "other")
    print(f"RENAME_EXCHANGE on the file system of {place}: {offered}")
    if not offered:
        pytest.skip(f"the file system of {place} cannot exchange two names")
    assert (place / "other" / "mark").exists()
    (place / "other" / "mark").unlink()
    for name in ("one", "other"):
        (place / name).rmdir()


def start(code: str, target: Path, step: str = "", way: str = "exchange") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(target), step, way],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def kill_in_the_middle(code: str, target: Path, step: str, way: str) -> None:
    process = start(code, target, step, way)
    _, error = process.communicate()
    assert process.returncode == -9, error


def is_kept(folder):
    return (folder / "mark").is_file()


def fill(out, content, *, overwrite):
    with output_folder(out, overwrite=overwrite, is_replaceable=is_kept, kind="thing") as folder:
        assert not (out / "mark").is_file() or (out / "mark").read_text() != content
        (folder / "mark").write_text(content)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_takes_its_place_and_another_replaces_it(way, tmp_path):
    out = tmp_path / "deep" / "out"
    fill(out, "first", overwrite=False)
    fill(out, "second", overwrite=True)
    assert (out / "mark").read_text() == "second"
    assert names_in(out.parent) == ["out"]


def test_a_failure_leaves_what_was_there(tmp_path):
    out = tmp_path / "out"
    fill(out, "first", overwrite=False)
    with pytest.raises(UnicodeEncodeError):
        fill(out, "\ud800", overwrite=True)
    assert (out / "mark").read_text() == "first"
    assert names_in(tmp_path) == ["out"]


def test_a_failure_between_the_renames_puts_the_old_folder_back(tmp_path, monkeypatch):
    out = tmp_path / "out"
    fill(out, "first", overwrite=False)
    monkeypatch.setattr(module, "_renameat2", None)
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if "-building-" in path.name:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(out, "second", overwrite=True)
    assert (out / "mark").read_text() == "first"
    assert names_in(tmp_path) == ["out"]


def test_what_must_not_be_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    for overwrite, expected in (
        (False, "expected a path that does not exist"),
        (True, "expected a thing to overwrite"),
    ):
        with pytest.raises(DataError, match=expected):
            fill(tmp_path / "home", "x", overwrite=overwrite)
    assert (tmp_path / "home" / "letter").read_text() == "dear"
    assert names_in(tmp_path) == ["home"]


def test_an_empty_folder_may_be_filled(way, tmp_path):
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out", "first", overwrite=False)
    assert (tmp_path / "out" / "mark").read_text() == "first"
    assert names_in(tmp_path) == ["out"]


def test_a_place_where_nothing_can_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/out.*expected a place for a new folder"):
        fill(tmp_path / "file" / "out", "x", overwrite=False)


def test_a_link_keeps_its_name_and_its_target_is_replaced(way, tmp_path):
    disk = tmp_path / "disk"
    fill(disk / "data", "first", overwrite=False)
    link = tmp_path / "link"
    link.symlink_to(disk / "data")
    fill(link, "second", overwrite=True)
    assert link.is_symlink()
    assert (disk / "data" / "mark").read_text() == "second"
    assert (names_in(tmp_path), names_in(disk)) == (["disk", "link"], ["data"])


@pytest.mark.parametrize("step", ["before", "after"])
def test_a_process_killed_around_the_exchange_leaves_a_whole_folder(tmp_path, step):
    need_exchange(tmp_path)
    out = tmp_path / "out"
    fill(out, "first", overwrite=False)
    kill_in_the_middle(REPLACED_BY_A_KILLED_ONE, out, step, "exchange")
    assert (out / "mark").read_text() == {"before": "first", "after": "second"}[step]
    assert len(names_in(tmp_path)) == 2  # the other one of the two
    fill(out, "third", overwrite=True)
    assert (out / "mark").read_text() == "third"
    assert names_in(tmp_path) == ["out"]


def test_without_an_exchange_the_next_run_puts_back_what_a_killed_one_renamed_away(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_renameat2", None)
    out = tmp_path / "out"
    fill(out, "first", overwrite=False)
    kill_in_the_middle(KILLED_BETWEEN_THE_RENAMES, out, "after", "renames")
    assert not out.exists()
    with pytest.raises(DataError, match="expected a path that does not exist"):  # for there is one again
        fill(out, "third", overwrite=False)
    assert (out / "mark").read_text() == "first"
    assert names_in(tmp_path) == ["out"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(way, tmp_path):
    out = tmp_path / "out"
    others = [tmp_path / f".{name}-building-0123456789ab" for name in ("other", "out-of-sight", "output")]
    for other in [*others, tmp_path / ".out-building-by-hand"]:
        other.mkdir()
    process = start(BUILDER, out, "waits", way)
    left = Path(process.stdout.readline().strip())
    process.kill()
    process.communicate()
    assert left.is_dir()
    assert left.name in names_in(tmp_path)
    fill(out, "third", overwrite=False)
    assert (out / "mark").read_text() == "third"
    assert names_in(tmp_path) == sorted([*(other.name for other in others), ".out-building-by-hand", "out"])


def test_a_living_builder_is_left_alone_and_the_last_one_wins(way, tmp_path):
    out = tmp_path / "out"
    process = start(BUILDER, out, "waits", way)
    building = Path(process.stdout.readline().strip())
    (tmp_path / ".out-replaced-0123456789ab").mkdir()  # perhaps what the living one has just renamed away
    fill(out, "first", overwrite=True)
    assert (building / "a").read_text() == "second"
    assert (tmp_path / ".out-replaced-0123456789ab").is_dir()
    assert (out / "mark").read_text() == "first"
    _, error = process.communicate("\n")
    assert process.returncode == 0, error
    assert [(out / name).read_text() for name in ("a", "b", "c", "mark")] == ["second"] * 4
    fill(out, "third", overwrite=True)
    assert names_in(tmp_path) == ["out"]


def test_processes_that_replace_the_same_folder_over_and_over_all_succeed(way, tmp_path):
    out = tmp_path / "out"
    processes = [start(REPEATED, out, "150", way) for _ in range(3)]
    for process in processes:
        _, error = process.communicate()
        assert process.returncode == 0, error
    assert len({(out / name).read_text() for name in ("a", "b", "c", "mark")}) == 1
    with built_beside(out):
        pass
    assert names_in(tmp_path) == ["out"]


def test_a_folder_that_is_exchanged_is_there_at_every_moment(tmp_path):
    need_exchange(tmp_path)
    out = tmp_path / "out"
    fill(out, "first", overwrite=False)
    process = start(REPEATED, out, "400")
    looks = missing = 0
    while process.poll() is None:
        for _ in range(1000):
            missing += not os.path.exists(out)
        looks += 1000
        time.sleep(0)  # the other process may need this core
    _, error = process.communicate()
    assert process.returncode == 0, error
    assert missing == 0, f"{missing} of {looks} looks"
