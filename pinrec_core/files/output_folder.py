"""A folder that appears whole or not at all: filled beside its place, then renamed into it. Knows no content."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pinrec_core.errors import DataError


@contextmanager
def built_beside(out: Path) -> Iterator[Path]:
    """A new folder to fill; it takes the place of ``out`` when the block ends and vanishes when the block fails.

    Whatever is at ``out`` is replaced; whether it may be is the caller's to know. Raises ``DataError`` when nothing
    can be made there.
    """
    token = uuid.uuid4().hex[:12]
    building = out.with_name(f".{out.name}-building-{token}")
    replaced = out.with_name(f".{out.name}-replaced-{token}")
    try:
        building.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"out={str(out)!r}: expected a place for a new folder ({error.strerror})") from error
    try:
        yield building
        if out.exists():
            out.rename(replaced)
        building.rename(out)
    finally:
        if replaced.exists() and not out.exists():  # stopped between the two
            replaced.rename(out)
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def output_folder(out: Path, *, overwrite: bool, is_replaceable: Callable[[Path], bool], kind: str) -> Iterator[Path]:
    """``built_beside``, after the checks that a user's output path needs.

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
    with built_beside(out) as building:
        yield building
