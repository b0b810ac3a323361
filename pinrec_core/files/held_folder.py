"""Folders that a living process holds, and how they differ from those that a killed process left behind.

A process holds a folder by a lock on the folder itself, not on a file in it. The kernel releases the lock when the
process ends, however it ends, so a folder that nobody has locked is a left-over. On a network file system the kernel
may know the locks of its own machine alone. This module knows neither where such folders lie nor what they are for.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path


def make_held(make: Callable[[], Path]) -> tuple[Path, int]:
    """The folder that ``make`` creates, and the descriptor that holds it: closing the descriptor lets the folder go.

    Between its creation and the lock, another process may take the folder for a left-over; then ``make`` is called
    again and has to choose another name. Raises ``OSError`` when the folder cannot be made or locked.
    """
    while True:
        path = make()
        lock = _lock(path)
        if lock is not None:
            if path.is_dir():
                return path, lock
            os.close(lock)


def remove_left_over(path: Path) -> bool:
    """Remove a folder that nobody holds. False when a process holds it or it is another user's."""
    try:
        lock = _lock(path)
    except OSError:
        return False
    if lock is None:
        return not path.exists()
    try:
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)
    return True


def _lock(path: Path) -> int | None:
    """The descriptor of the folder, now locked; None when the folder is gone or another process holds it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor
