"""A folder that appears whole or not at all: filled beside its place, then renamed into it."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pinrec_core.errors import DataError


@contextmanager
def output_folder(out: Path, *, overwrite: bool, is_replaceable: Callable[[Path], bool], kind: str) -> Iterator[Path]:
    """A new folder to fill; it takes the place of ``out`` when the block ends and vanishes when the block fails.

    Raises ``DataError`` when ``out`` is there already and is not to be overwritten, or is no ``kind`` to overwrite:
    a slip of the finger must not replace a home folder. An empty folder may always be filled.
    """
    out = Path(out)
    empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not empty:
        if not overwrite:
            raise DataError(f"out={str(out)!r}: expected a path that does not exist; --overwrite replaces a {kind}")
        if not (out.is_dir() and is_replaceable(out)):
            raise DataError(f"out={str(out)!r}: expected a {kind} to overwrite; this is something else")
    token = uuid.uuid4().hex[:12]
    building = out.with_name(f".{out.name}-building-{token}")
    replaced = out.with_name(f".{out.name}-replaced-{token}")
    building.mkdir(parents=True)
    try:
        yield building
        if out.exists():
            out.rename(replaced)
        try:
            building.rename(out)
        except OSError:
            if replaced.exists():
                replaced.rename(out)
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
