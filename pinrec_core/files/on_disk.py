"""Forces what was written to the disk, so that a power cut cannot take back what somebody has been told of."""

from __future__ import annotations

import os
from pathlib import Path

from pinrec_core.errors import StorageError


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk: which files there are, and what was renamed. Raises ``OSError``."""
    _sync(folder)


def sync_tree(folder: Path) -> None:
    """Force every file below ``folder``, and every name, to the disk. Raises ``StorageError`` when the disk fails."""
    try:
        for path, _, files in os.walk(folder, topdown=False):
            for name in files:
                _sync(Path(path, name))
            _sync(Path(path))
    except OSError as error:
        raise StorageError(f"{folder}: cannot be forced to the disk ({error.strerror})") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
