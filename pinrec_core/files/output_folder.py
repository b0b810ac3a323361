"""A folder that appears whole or not at all: it is filled beside its place and then takes that place.

Where the kernel can exchange two names in one step (Linux, on local file systems), a folder that is replaced is there
at every moment: the old one or the new one, also when the process is killed. Elsewhere the old one is renamed away
first; if the process is killed between the two renames, the next one that builds the same folder puts the old one back.

This module does not know what a folder holds.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pinrec_core.errors import DataError
from pinrec_core.files.held_folder import make_held, remove_left_over

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
_NOT_OFFERED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
"""What the kernel answers where it, or the file system, cannot exchange two names."""
_CHANGED_MEANWHILE = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)
"""What the kernel answers when another process put a folder in the same place, or took it away, a moment ago."""


@contextmanager
def built_beside(out: Path) -> Iterator[Path]:
    """A new folder to fill; it takes the place of ``out`` when the block ends and vanishes when the block fails.

    Whatever is at ``out`` is replaced; the caller decides whether it may be. A symbolic link is followed. Of several
    processes that build the same ``out``, the last one to finish wins. Before the block, what killed processes left
    beside ``out`` is tidied away. Raises ``DataError`` when nothing can be made there.

    The content is not forced to the disk first: for folders of gigabytes that would take as long as writing them, and
    a folder that a power cut damaged can be built again.
    """
    target = Path(os.path.realpath(out))
    try:
        _tidy(target)
        building, lock = make_held(lambda: _new_folder_beside(target))
    except OSError as error:
        raise DataError(f"out={str(out)!r}: expected a place for a new folder ({error.strerror})") from error
    try:
        yield building
        _put_in_place(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        os.close(lock)


@contextmanager
def output_folder(out: Path, *, overwrite: bool, is_replaceable: Callable[[Path], bool], kind: str) -> Iterator[Path]:
    """``built_beside``, with the checks that a user's output path needs.

    Raises ``DataError`` when ``out`` exists and ``overwrite`` is not given, or when ``out`` is not a ``kind``: a
    mistyped path must not replace a home folder. An empty folder may always be filled.
    """
    out = Path(out)
    with built_beside(out) as building:  # first: it puts back an ``out`` that a killed process left renamed
        empty = out.is_dir() and not any(out.iterdir())
        if out.exists() and not empty:
            if not overwrite:
                raise DataError(f"out={str(out)!r}: expected a path that does not exist; --overwrite replaces a {kind}")
            if not (out.is_dir() and is_replaceable(out)):
                raise DataError(f"out={str(out)!r}: expected a {kind} to overwrite; this is something else")
        yield building


def _new_folder_beside(target: Path) -> Path:
    folder = _name_beside(target, "building")
    folder.mkdir(parents=True)
    return folder


def _name_beside(target: Path, role: str) -> Path:
    return target.parent / f".{target.name}-{role}-{uuid.uuid4().hex[:12]}"


def _put_in_place(building: Path, target: Path) -> None:
    """Afterwards the new folder is at ``target``, and whatever was there before is at ``building``."""
    while True:
        try:
            if not target.exists():
                building.rename(target)
            elif not exchange(building, target):
                _exchange_by_renames(building, target)
            return
        except OSError as error:
            if error.errno not in _CHANGED_MEANWHILE or not building.exists():
                raise


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step. False where this is not offered. Raises ``OSError``."""
    if _renameat2 is None:
        return False
    if _renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_OFFERED:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def _exchange_by_renames(building: Path, target: Path) -> None:
    """The same in three steps. When one fails, the old folder is put back unless another folder has its place."""
    replaced = _name_beside(target, "replaced")
    try:
        target.rename(replaced)
        building.rename(target)
    except BaseException:  # an interrupt too
        with suppress(OSError):
            replaced.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
        raise
    with suppress(FileNotFoundError):  # another process has tidied it away
        replaced.rename(building)  # so that a folder named "replaced" is always whole


def _tidy(target: Path) -> None:
    """Remove what killed processes left beside ``target``, and put back the folder that one had only renamed away."""
    left_over = re.compile(rf"\.{re.escape(target.name)}-(building|replaced)-[0-9a-f]{{12}}")
    found: dict[str, list[Path]] = {"building": [], "replaced": []}
    for name in _names_in(target.parent):
        if match := left_over.fullmatch(name):
            found[match[1]].append(target.parent / name)
    removed = [remove_left_over(folder) for folder in found["building"]]
    if not all(removed):
        return  # somebody builds now, and may be between the renames: what is named "replaced" is theirs
    replaced = found["replaced"]
    if replaced and not target.exists():
        with suppress(FileNotFoundError):  # another process, which started at the same time, has put it back
            newest = max(replaced, key=lambda folder: folder.stat().st_ctime)
            newest.rename(target)
    for folder in replaced:
        remove_left_over(folder)


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
