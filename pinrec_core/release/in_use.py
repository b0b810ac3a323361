"""Which releases a running process serves: it holds their folders, and what removes old releases leaves those alone.

The lock is on the folder itself, so a release that nobody may write to can be held too. It is known on the machine that
holds it; machines that share releases over a network file system may not see each other's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pinrec_core.errors import ReleaseError
from pinrec_core.files.held_folder import is_held, using


@contextmanager
def using_release(folder: Path) -> Iterator[None]:
    """While the block runs, nothing removes the release in ``folder``; any number of processes may use it at once.

    The kernel ends the use with the process, however that ends. Raises ``ReleaseError`` where the folder is gone. Where
    the file system knows no locks, a warning says so and the block runs all the same.
    """
    with using(folder, "release", gone=ReleaseError):
        yield


def release_in_use(folder: Path) -> bool:
    """Whether a process of this machine uses the release in ``folder``. Raises ``OSError`` where nobody can tell."""
    return is_held(Path(folder))
