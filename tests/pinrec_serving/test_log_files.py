"""Logs go where this user says, and not where somebody else has laid a link or a folder."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from pinrec_core.errors import ConfigError, ServerError
from pinrec_serving.front import Front, FrontChoice, FrontOptions, find_haproxy
from pinrec_serving.log_files import default_log_folder, open_log
from pinrec_serving.runtime import TritonServer
from tests.pinrec_serving.conftest import free_endpoint

THEIRS = b"export PATH\n"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A file of this user, to which both logs in the folder ``log`` lead."""
    profile = tmp_path / ".profile"
    profile.write_bytes(THEIRS)
    (tmp_path / "log").mkdir()
    for name in ("triton.log", "front.log"):
        (tmp_path / "log" / name).symlink_to(profile)
    return profile


def test_the_folder_among_temporary_files_is_for_this_user_alone(temporary: Path) -> None:
    folder = default_log_folder(8001)
    assert folder == temporary / "pinrec-serve-8001"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    assert default_log_folder(8001) == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_of_somebody_else_is_refused(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = default_log_folder(8001)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(ConfigError, match=r"pinrec-serve-8001: expected a folder of this user .* with --log-dir"):
        default_log_folder(8001)


def test_a_link_to_a_folder_is_refused(temporary: Path) -> None:
    (temporary / "home").mkdir()
    (temporary / "pinrec-serve-8001").symlink_to(temporary / "home")
    with pytest.raises(ConfigError, match="expected a folder of this user"):
        default_log_folder(8001)


def test_a_log_is_added_to_in_any_folder_that_was_asked_for(tmp_path: Path) -> None:
    for line in (b"one\n", b"two\n"):
        with open_log(tmp_path / "made" / "triton.log") as log:
            log.write(line)
    (tmp_path / "link").symlink_to(tmp_path / "made")
    with open_log(tmp_path / "link" / "triton.log") as log:
        assert log.tell() == 8
    assert (tmp_path / "made" / "triton.log").read_bytes() == b"one\ntwo\n"
    with pytest.raises(ServerError, match=r"made: expected a file to write the log to, .*Is a directory"):
        open_log(tmp_path / "made")


@pytest.mark.triton
def test_triton_does_not_write_where_a_link_leads(triton: None, linked: Path) -> None:
    server = TritonServer(endpoint=free_endpoint(), log_folder=linked.with_name("log"))
    with pytest.raises(ServerError, match=r"triton\.log: expected a file to write the log to, and no symbolic link"):
        server.__enter__()
    assert linked.read_bytes() == THEIRS


def test_the_front_does_not_write_where_a_link_leads(linked: Path) -> None:
    program = find_haproxy(FrontChoice.AUTO, FrontOptions())
    if program is None:
        pytest.skip("no HAProxy: apt-get install haproxy")
    folder = linked.with_name("log")
    front = Front(program, FrontOptions(), outer=free_endpoint(), inner=free_endpoint(), log_folder=folder)
    with pytest.raises(ServerError, match=r"front\.log: expected a file to write the log to, and no symbolic link"):
        front.__enter__()
    assert linked.read_bytes() == THEIRS
