"""A publish that is killed at its n-th change of the file system. A module of its own, which processes can import."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from benchmarks.signals.publish_kills import _processes, publish_numbered

CHANGES = {"os.rename", "os.symlink", "os.link", "os.mkdir", "os.remove", "os.rmdir"}
NEVER = 10**9


def steps_of_publish(signals: Path, number: int) -> int:
    """The number of changes that a whole publish makes."""
    counted = _processes.Value("i", 0)
    child = _processes.Process(target=_publish, args=(signals, number, NEVER, counted))
    child.start()
    child.join()
    assert child.exitcode == 0
    return counted.value


def killed_publish(signals: Path, number: int, step: int) -> None:
    """Publish in a process that gets SIGKILL before its change number ``step``, from 1."""
    child = _processes.Process(target=_publish, args=(signals, number, step, None))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL


def _publish(signals: Path, number: int, step: int, counted) -> None:
    made = 0

    def before_change(event: str, arguments: tuple) -> None:
        nonlocal made
        if event in CHANGES or (event == "open" and opens_new_file(arguments)):
            made += 1
            if made == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(before_change)
    publish_numbered(signals, number)
    if counted is not None:
        counted.value = made


def opens_new_file(arguments: tuple) -> bool:
    path, mode, flags = arguments
    return isinstance(path, str) and "signals" in path and bool(flags & os.O_CREAT)
