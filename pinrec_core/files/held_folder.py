"""Folders that a living process holds, and how they differ from those that a killed process left behind.

A process holds a folder by a lock on the folder itself, not on a file in it, so that a folder that nobody may write to
can be held as well. The kernel releases the lock when the process ends, however it ends, so a folder that nobody has
locked is a left-over. Several readers may hold a folder together (``holding``). On a network file system the kernel may
know the locks of its own machine alone. This module knows neither where such folders lie nor what they are for.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pinrec_core.errors import PinRecError

log = logging.getLogger(__name__)

_UNFINISHED = re.compile(r"\..+-(building|removing)-[0-9a-f]{12}")


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


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Hold a folder that is there, together with others who do: nobody removes it while the block runs.

    Waits for a process that is putting it in place or removing it. Raises ``FileNotFoundError`` where it is gone.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not os.path.samestat(os.fstat(descriptor), os.stat(path)):  # another folder has its name
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        yield
    finally:
        os.close(descriptor)


@contextmanager
def using(path: Path, what: str, *, gone: type[PinRecError]) -> Iterator[None]:
    """Hold the folder of ``what``, such as a release, for as long as the block uses it.

    Raises ``gone`` where it is not there. Where the file system knows no locks, a warning says so and the block runs
    all the same.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(holding(Path(path)))
        except (FileNotFoundError, NotADirectoryError) as absent:
            raise gone(f"{path}: expected the folder of a {what}; there is none any more") from absent
        except OSError as error:
            log.warning("%s: cannot be held (%s); do not prune it while it serves", path, error.strerror)
        yield


def is_held(path: Path) -> bool:
    """Whether a process of this machine holds a folder. Raises ``OSError`` where it cannot be read."""
    lock = _lock(path)
    if lock is None:
        return path.exists()
    os.close(lock)
    return False


def remove_unheld(path: Path) -> bool:
    """Remove a folder that nobody holds, in one step to whoever looks: it is renamed first. False when it is held.

    Killed meanwhile, this leaves a folder that ``left_overs`` finds. Raises ``OSError`` when it cannot be removed.
    """
    lock = _lock(path)
    if lock is None:
        return not path.exists()
    try:
        leaving = path.with_name(f".{path.name}-removing-{uuid.uuid4().hex[:12]}")
        path.rename(leaving)
        shutil.rmtree(leaving)
    finally:
        os.close(lock)
    return True


def left_overs(folder: Path) -> list[Path]:
    """The unfinished folders directly in ``folder`` that no process of this machine holds: half built or removed."""
    named = [path for path in folder.iterdir() if _UNFINISHED.fullmatch(path.name) and path.is_dir()]
    return sorted(path for path in named if not is_held(path))


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
