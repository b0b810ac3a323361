"""A folder that one process at a time works in."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pinrec_core.errors import ConfigError

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: Path, *, refusal: str) -> Iterator[None]:
    """Raises ``ConfigError`` with ``refusal`` while another process is in the block.

    The kernel unlocks for a process that was killed.
    """
    with (folder / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(refusal) from None
        yield
