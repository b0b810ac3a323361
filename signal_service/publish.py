"""Folders that appear whole or not at all: built beside their destination, then renamed into place."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def built_beside(destination: Path) -> Iterator[Path]:
    """A new folder to fill. On a clean exit it replaces ``destination``; on an error it is removed.

    A reader sees the old folder or the new one; between the two renames it may see none, and should try again. What a
    reader has open stays readable.
    """
    destination = Path(destination)
    token = uuid.uuid4().hex[:12]
    building = destination.with_name(f".{destination.name}-building-{token}")
    replaced = destination.with_name(f".{destination.name}-replaced-{token}")
    building.mkdir(parents=True)
    try:
        yield building
        if destination.exists():
            destination.rename(replaced)
        try:
            building.rename(destination)
        except OSError:
            if replaced.exists():
                replaced.rename(destination)
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
