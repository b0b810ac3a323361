"""A lock that lets one process at a time work in a folder.

The library ``filelock`` was tried and left out: it takes the same kernel lock on the same kind of file in as many
lines, and where the kernel has none it leaves a marker file behind when the process is killed.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pinrec_core.errors import ConfigError

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: Path, *, refusal: str) -> Iterator[None]:
    """Raises ``ConfigError`` with the message ``refusal`` while another process is in the block.

    The lock file stays in the folder. The kernel releases the lock when the process ends, even when it is killed.
    """
    with (folder / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(refusal) from None
        yield
