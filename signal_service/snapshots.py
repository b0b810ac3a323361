"""Versioned snapshots of the batch signals: what there is, which one serves, and whether it is whole.

A folder of signals holds::

    snapshots/<name>/sequences/       the users' sequences
    snapshots/<name>/batch/           the same as a key-value view
    snapshots/<name>/dataset.json     the manifest of the dataset that they were made of
    snapshots/<name>/report.json      what the batch job counted
    snapshots/<name>/snapshot.json    ``Snapshot``, written last
    current -> snapshots/<name>       the one that serves
    sequences, batch, dataset.json    links into ``current``, for whoever knows only these paths

A snapshot never changes. It is named by the end of its batch and a serial, such as ``20261127T000000-1``. Folders of
before there were snapshots have plain folders ``sequences`` and ``batch``. This module only reads; ``snapshot_changes``
makes, switches and removes.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pinrec_core.errors import DataError
from pinrec_core.files.held_folder import is_held, using
from pinrec_core.validation import check, load_json, save_json, validated

SNAPSHOTS = "snapshots"
CURRENT = "current"
SNAPSHOT_FILE = "snapshot.json"
REPORT_FILE = "report.json"
_NAME = re.compile(r"(\d{8}T\d{6})-([1-9]\d*)")


@validated(DataError)
class Snapshot:
    """What ``snapshot.json`` says of a snapshot.

    It holds the events in ``[start_time, end_time)`` (Unix seconds); without ``start_time`` from the first one on.
    ``parent`` is the snapshot that an incremental run started from, and ``replaces`` the one that was current when this
    one was made: a rollback leads to it. ``files`` are the sizes of its files, by which a damaged one is noticed.
    """

    format: Literal[1] = 1
    name: str
    end_time: int
    start_time: int | None
    num_users: Annotated[int, Field(ge=0)]
    num_interactions: Annotated[int, Field(ge=0)]
    created: str  # UTC, to the second
    parent: str | None
    replaces: str | None
    files: dict[str, int]

    def __post_init__(self) -> None:
        check(is_name(self.name), "name", self.name, "the end of a batch and a serial, as in 20261127T000000-1")
        for path, size in self.files.items():
            inside = not Path(path).is_absolute() and ".." not in Path(path).parts
            check(inside and size >= 0, f"files[{path!r}]", size, "the size of a file in the snapshot")
        try:
            aware = datetime.datetime.fromisoformat(self.created).tzinfo is not None
        except ValueError:
            aware = False
        check(aware, "created", self.created, "a time with its zone")

    @property
    def bytes(self) -> int:
        return sum(self.files.values())

    @property
    def created_at(self) -> datetime.datetime:
        return datetime.datetime.fromisoformat(self.created)

    @staticmethod
    def load(folder: Path) -> Snapshot:
        """Read ``folder/snapshot.json``. Raises ``DataError`` when it is absent, damaged, or of another folder."""
        path = Path(folder) / SNAPSHOT_FILE
        snapshot = load_json(
            Snapshot, path, error=DataError, what="the description of a snapshot",
            absent="the run that made this folder has not finished",
        )  # fmt: skip
        if snapshot.name != Path(folder).name:
            raise DataError(f"{path}: name={snapshot.name!r}: expected {Path(folder).name!r}, as the folder is named")
        return snapshot

    def save(self, folder: Path) -> None:
        save_json(self, Path(folder) / SNAPSHOT_FILE)

    def check_files(self, folder: Path) -> None:
        """Raises ``DataError`` when a file is missing, or has not the size that it had when the snapshot was made."""
        for path, size in self.files.items():
            try:
                got = os.stat(Path(folder) / path).st_size
            except OSError as error:
                raise DataError(f"{Path(folder) / path}: expected {size} bytes ({error.strerror})") from error
            if got != size:
                raise DataError(f"{Path(folder) / path}: {got} bytes, expected {size}: the snapshot is damaged")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSnapshot:
    """A folder among the snapshots. ``snapshot`` is None where its description cannot be read."""

    folder: Path
    snapshot: Snapshot | None
    problem: str | None  # why it cannot serve
    finished: bool  # whether it has a description at all
    current: bool
    in_use: bool  # by a process of this machine

    @property
    def name(self) -> str:
        return self.folder.name


def is_name(name: str) -> bool:
    """Whether this is the name of a snapshot."""
    return _NAME.fullmatch(name) is not None


def name_order(name: str) -> tuple[str, int]:
    """By which names are ordered: by the end of the batch, then by the serial."""
    match = _NAME.fullmatch(name)
    assert match is not None, name
    return match[1], int(match[2])


def name_for(signals: Path, end_time: int) -> str:
    """The name of the next snapshot of a batch that ends at ``end_time``: with a serial above all that are there.

    Raises ``DataError`` for a time that no calendar has.
    """
    try:
        end = datetime.datetime.fromtimestamp(end_time, datetime.UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise DataError(f"end_time={end_time}: expected Unix seconds of the years 1 to 9999") from error
    stamp = re.sub("[-:]", "", end.isoformat()[:19])  # strftime would not fill the year up to four digits
    taken = [name_order(name)[1] for name in _names(signals) if name_order(name)[0] == stamp]
    return f"{stamp}-{max(taken, default=0) + 1}"


def snapshot_folder(signals: Path, name: str) -> Path:
    return Path(signals) / SNAPSHOTS / name


def current_name(signals: Path) -> str | None:
    """The name of the snapshot that serves; None where there is none, as in a folder of before there were any.

    Raises ``DataError`` where ``current`` is something else than a link to a snapshot.
    """
    pointer = Path(signals) / CURRENT
    try:
        target = Path(os.readlink(pointer))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(
            f"{pointer}: expected a symbolic link to a snapshot ({error.strerror}); where the signals were copied, "
            "copy them again with their links, as `cp -a` does"
        ) from error
    if target.parent != Path(SNAPSHOTS) or not is_name(target.name):
        raise DataError(f"{pointer}: leads to {str(target)!r}: expected {SNAPSHOTS}/ and the name of a snapshot")
    return target.name


def current_snapshot(signals: Path) -> Snapshot | None:
    """The snapshot that serves; None where there is none. Raises ``DataError`` when it cannot be read."""
    name = current_name(signals)
    return None if name is None else Snapshot.load(snapshot_folder(signals, name))


def open_snapshot(signals: Path, name: str) -> Snapshot:
    """The snapshot of this name. Raises ``DataError`` when it is not there or not whole."""
    folder = snapshot_folder(signals, name)
    if not is_name(name) or not folder.is_dir():
        there = sorted(_names(signals), key=name_order, reverse=True)
        raise DataError(f"snapshot={name!r}: expected one of {there[:16]}, in {Path(signals) / SNAPSHOTS}")
    snapshot = Snapshot.load(folder)
    snapshot.check_files(folder)
    return snapshot


def list_snapshots(signals: Path) -> list[ListedSnapshot]:
    """All snapshots, the one that was made last first; those whose description cannot be read come last.

    Raises ``DataError`` where there is no such folder.
    """
    signals = Path(signals)
    if not signals.is_dir():
        raise DataError(f"signals={str(signals)!r}: expected a folder of batch signals, made by `pinrec prepare`")
    current = current_name(signals)
    listed = [_listed(snapshot_folder(signals, name), current) for name in _names(signals)]
    return sorted(listed, key=_newness, reverse=True)


@contextmanager
def using_snapshot(folder: Path) -> Iterator[None]:
    """While the block runs, nothing removes the snapshot in ``folder``; any number of processes may use it at once.

    The kernel ends the use with the process, however that ends. Raises ``DataError`` where the folder is gone. Where
    the file system knows no locks, a warning says so and the block runs all the same.
    """
    with using(folder, "snapshot", gone=DataError):
        yield


def _listed(folder: Path, current: str | None) -> ListedSnapshot:
    snapshot, problem = None, None
    try:
        snapshot = Snapshot.load(folder)
        snapshot.check_files(folder)
    except DataError as error:
        problem = str(error)
    return ListedSnapshot(
        folder=folder,
        snapshot=snapshot,
        problem=problem,
        finished=(folder / SNAPSHOT_FILE).exists(),
        current=folder.name == current,
        in_use=_in_use(folder),
    )


def _newness(one: ListedSnapshot) -> tuple[float, tuple[str, int]]:
    created = float("-inf") if one.snapshot is None else one.snapshot.created_at.timestamp()
    return created, name_order(one.name)


def _in_use(folder: Path) -> bool:
    try:
        return is_held(folder)
    except OSError:  # another user's, which cannot be read
        return False


def _names(signals: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(Path(signals) / SNAPSHOTS) if is_name(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
