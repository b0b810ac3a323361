"""A temporary folder that belongs to a process and goes with it, also when the process is killed. Knows no content."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class TemporaryFolder:
    """A folder in the system's temporary folder, named ``prefix`` and something random, removed by ``close``.

    A killed process cannot remove its own, so making a folder removes those of the same prefix that nobody holds. A
    holder is told from a left-over by a lock on the folder, which the kernel gives back when the process ends. A child
    that is passed the descriptor ``lock`` holds the folder too.
    """

    def __init__(self, prefix: str) -> None:
        _remove_left_overs(prefix)
        self.path, self.lock = _make_and_lock(prefix)
        self._open = True

    def close(self) -> None:
        if self._open:
            self._open = False
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self.lock)


def _make_and_lock(prefix: str) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix))
        with _locked(path) as lock:
            # Before the lock was taken another process may have seen a folder that nobody holds, and removed it.
            if lock is not None and path.is_dir():
                return path, os.dup(lock)


def _remove_left_overs(prefix: str) -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with _locked(path) as lock:
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[int | None]:
    """The descriptor of the locked folder; None when it is held, gone, or another user's."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield None
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
        else:
            yield descriptor  # a duplicate of it keeps the lock
    finally:
        os.close(descriptor)
