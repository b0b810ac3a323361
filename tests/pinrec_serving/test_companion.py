"""A command beside the service does not outlive it, and its own end is known."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from pinrec_core.errors import ConfigError
from pinrec_serving import companion as module
from pinrec_serving.companion import Companion
from pinrec_serving.processes import has_ended

OWNER = """
import os, signal
from pinrec_serving.companion import Companion
companion = Companion()
companion.start(["sh", "-c", "echo $$; exec sleep 600"])
signal.pause()
"""


def wait_for_end(companion: Companion) -> None:
    while not companion.has_ended():
        time.sleep(0.01)


@pytest.mark.parametrize(("command", "status"), [("exit 7", 7), ("exit 0", 0), ("kill -INT $$", 130)])
def test_the_exit_code_is_that_of_a_command_that_ended_by_itself(command: str, status: int) -> None:
    with Companion() as companion:
        assert not companion.has_ended()
        companion.start(["sh", "-c", command])
        wait_for_end(companion)
    assert companion.exit_code == status


@pytest.mark.parametrize("trapped", ["", "trap '' TERM; "])
def test_a_command_that_is_running_is_ended(trapped: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.2)
    with Companion() as companion:
        companion.start(["sh", "-c", f"{trapped}touch {tmp_path}/begun; while :; do sleep 0.05; done"])
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
    assert companion.has_ended()
    assert companion.exit_code == 0


def test_a_command_ends_with_an_owner_that_is_killed() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    command = int(owner.stdout.readline())
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    while not has_ended(command):
        time.sleep(0.01)


def test_a_program_that_is_not_there_is_named() -> None:
    with Companion() as companion, pytest.raises(ConfigError, match="command='nowhere': expected a program"):
        companion.start(["nowhere"])
