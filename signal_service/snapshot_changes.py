"""Snapshots are made, switched and removed. At every step, also when the process is killed, one of them serves.

A new snapshot is built in a hidden folder, forced to the disk and renamed into place; then the link ``current`` moves.
One process at a time makes snapshots. Moving the link is a matter of an instant and waits for nobody who builds, so a
rollback is possible while the next batch runs. See ``snapshots`` for the layout.
"""

from __future__ import annotations

import datetime
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pinrec_core.dataset.batch_info import BATCH_INFO_NAME, BatchInfo, is_batch
from pinrec_core.dataset.manifest import MANIFEST_NAME
from pinrec_core.errors import ConfigError, DataError, StorageError, require
from pinrec_core.files.file_writing import link_or_copy, writing
from pinrec_core.files.folder_lock import locked
from pinrec_core.files.held_folder import left_overs, remove_left_over, remove_unheld
from pinrec_core.files.on_disk import sync_folder, sync_tree
from pinrec_core.files.output_folder import built_beside
from pinrec_core.files.symbolic_link import point, remove_left_over_links
from signal_service.batch_view import SEQUENCES, VIEW
from signal_service.snapshots import (
    CURRENT,
    SNAPSHOT_FILE,
    SNAPSHOTS,
    ListedSnapshot,
    Snapshot,
    current_name,
    list_snapshots,
    name_for,
    name_order,
    open_snapshot,
    snapshot_folder,
)

log = logging.getLogger(__name__)

LINKS = (SEQUENCES, VIEW, MANIFEST_NAME)
"""The paths that lead into the current snapshot."""
WRITTEN_BY_READERS = ("rocksdict-config.json", "LOG", "LOCK")
"""Files of a database that opening it for reading writes anew, so that their size tells nothing. None holds data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What ``prune`` has done."""

    removed: list[str]  # snapshots, by name
    left_overs: list[Path]  # what killed runs had left
    in_use: list[str]  # snapshots that would have been removed, but that a process of this machine reads
    bytes: int  # that the snapshots took; files that others share are not freed


def create(
    signals: Path,
    build: Callable[[Path], str | None],
    *,
    end_time: int,
    start_time: int | None = None,
    now: datetime.datetime,
) -> Snapshot:
    """Make a snapshot, which does not serve yet. Plain folders of before become the first snapshot, and serve.

    ``build`` puts ``sequences``, ``batch`` and ``dataset.json`` into the folder that it is given, and returns the name
    of the snapshot that it went on from, if any. Whatever fails, and whenever the process is killed, no snapshot is
    there and the others stay. Raises ``ConfigError`` while another process makes one, ``DataError`` when the parts do
    not belong together, ``StorageError`` when the disk fails, and what ``build`` raises.
    """
    signals = Path(signals)
    place = _place(signals)
    with locked(place, refusal=f"signals={str(signals)!r}: expected no other process to publish into it"):
        adopt_plain_folders(signals)
        name, replaces = name_for(signals, end_time), current_name(signals)
        with built_beside(place / name) as building:
            parent = build(building)
            info = _info(building, end_time)
            snapshot = _seal(
                building, name, info, start_time=start_time, parent=parent, replaces=replaces, created=now
            )  # fmt: skip
        sync_folder(place)
    return snapshot


def publish(signals: Path, name: str) -> Snapshot:
    """Make an existing snapshot the current one. Raises ``DataError`` when it is not whole; then nothing changes."""
    signals = Path(signals)
    with _moving(signals):
        snapshot = open_snapshot(signals, name)
        _point_current(signals, name)
    return snapshot


def rollback(signals: Path, to: str | None = None) -> tuple[str, Snapshot]:
    """Make the snapshot ``to`` current again, by default the one that the current one replaced → (before, now).

    Two rollbacks go back two snapshots. Raises ``DataError`` where there is nothing to go back to or it is not whole.
    """
    signals = Path(signals)
    with _moving(signals):
        before = current_name(signals)
        if before is None:
            raise DataError(f"{signals}: expected a current snapshot; `pinrec signals publish` makes the first")
        snapshot = open_snapshot(signals, _previous(signals, before) if to is None else to)
        _point_current(signals, snapshot.name)
    return before, snapshot


def prune(signals: Path, *, keep: int = 3) -> Pruning:
    """Remove old snapshots and what killed runs have left, so that the ``keep`` newest whole snapshots stay.

    Never removed: the current one, one that a process of this machine reads, one whose description this version cannot
    read, and what a living process builds. Raises ``ConfigError`` for a number below 1.
    """
    require(keep >= 1, "keep", keep, "at least 1", error=ConfigError)
    signals = Path(signals)
    listed = list_snapshots(signals)
    if not listed and not (signals / SNAPSHOTS).is_dir():
        return Pruning(removed=[], left_overs=[], in_use=[], bytes=0)
    removed, in_use, freed = [], [], 0
    with _moving(signals):
        for one in _superfluous(list_snapshots(signals), keep):
            if remove_unheld(one.folder):
                removed.append(one.name)
                freed += one.snapshot.bytes if one.snapshot else 0
            else:
                in_use.append(one.name)
        gone = [*remove_left_over_links(signals)]
        found = [path for folder in (signals, signals / SNAPSHOTS) for path in left_overs(folder)]
        gone += [path for path in found if remove_left_over(path)]
    return Pruning(removed=removed, left_overs=gone, in_use=in_use, bytes=freed)


def adopt_plain_folders(signals: Path) -> None:
    """Make the first snapshot of the plain folders ``sequences`` and ``batch``, where there are any, and link to it.

    Their files are linked, not copied, where the file system can. They serve at every moment, before as after.
    """
    with _moving(Path(signals)):
        _adopt(Path(signals))


def _adopt(signals: Path) -> None:
    plain = [signals / name for name in (SEQUENCES, VIEW)]
    if current_name(signals) is None and all(path.is_dir() and not path.is_symlink() for path in plain):
        name = _adopted(signals)
        if name is not None:
            _point_current(signals, name)


def _adopted(signals: Path) -> str | None:
    """The name of the snapshot of the plain folders, which is made where a killed run has not; None where they do not
    belong together."""
    if not (all(is_batch(signals / name) for name in (SEQUENCES, VIEW)) and (signals / MANIFEST_NAME).is_file()):
        return None
    info, of_view = BatchInfo.load(signals / SEQUENCES), BatchInfo.load(signals / VIEW)
    if info != of_view:
        log.warning("%s: sequences and view are of two batches; they will be replaced and not kept", signals)
        return None
    description = Path(SEQUENCES) / BATCH_INFO_NAME
    for one in list_snapshots(signals):
        if one.problem is None and os.path.samefile(one.folder / description, signals / description):
            return one.name
    name = name_for(signals, info.end_time)
    created = datetime.datetime.fromtimestamp((signals / description).stat().st_mtime, datetime.UTC)
    with built_beside(_place(signals) / name) as building:
        for path in (path for part in (SEQUENCES, VIEW) for path in (signals / part).rglob("*") if path.is_file()):
            copy = building / path.relative_to(signals)
            copy.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, copy)
        (building / MANIFEST_NAME).write_bytes((signals / MANIFEST_NAME).read_bytes())
        _seal(building, name, info, start_time=None, parent=None, replaces=None, created=created)
    sync_folder(_place(signals))
    return name


def _info(building: Path, end_time: int) -> BatchInfo:
    """What was built. Raises ``DataError`` unless all parts are there and are of one batch, that of ``end_time``."""
    info, of_view = BatchInfo.load(building / SEQUENCES), BatchInfo.load(building / VIEW)
    if not (building / MANIFEST_NAME).is_file():
        raise DataError(f"{building / MANIFEST_NAME}: expected the manifest of the dataset")
    for field in ("end_time", "num_users", "num_interactions", "feature_space"):
        got, expected = getattr(of_view, field), getattr(info, field)
        require(got == expected, f"the view's {field}", got, f"{expected!r}, that of the sequences", error=DataError)
    require(info.end_time == end_time, "end_time of what was built", info.end_time, str(end_time), error=DataError)
    return info


def _seal(
    building: Path,
    name: str,
    info: BatchInfo,
    *,
    start_time: int | None,
    parent: str | None,
    replaces: str | None,
    created: datetime.datetime,
) -> Snapshot:
    """Force a folder to the disk and describe it. The description comes last: a folder without one is unfinished."""
    sync_tree(building)
    files = {
        str(path.relative_to(building)): path.stat().st_size
        for path in building.rglob("*")
        if path.is_file() and path.name not in WRITTEN_BY_READERS
    }
    snapshot = Snapshot(
        name=name, end_time=info.end_time, start_time=start_time, num_users=info.num_users,
        num_interactions=info.num_interactions, parent=parent, replaces=replaces, files=dict(sorted(files.items())),
        created=created.astimezone(datetime.UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    with writing(building / SNAPSHOT_FILE):
        snapshot.save(building)
    sync_tree(building)
    return snapshot


def _point_current(signals: Path, name: str) -> None:
    """Move the link, then see that the other paths lead through it."""
    try:
        point(signals / CURRENT, f"{SNAPSHOTS}/{name}")
        for link in LINKS:
            point(signals / link, f"{CURRENT}/{link}")
    except OSError as error:
        raise StorageError(f"{signals}: the links to {name} cannot be made ({error.strerror})") from error


def _previous(signals: Path, current: str) -> str:
    """The snapshot that a rollback leads to. Raises ``DataError`` where there is none any more."""
    whole = [one.name for one in list_snapshots(signals) if one.problem is None and not one.current]
    try:
        replaced = Snapshot.load(snapshot_folder(signals, current)).replaces
    except DataError:  # what it replaced cannot be read any more: the newest batch before it
        replaced = max((name for name in whole if name_order(name) < name_order(current)), key=name_order, default=None)
    if replaced is None:
        raise DataError(f"snapshot={current!r}: expected one that replaced another; --to names one of {whole}")
    if replaced not in whole:
        raise DataError(f"{replaced}, which {current} replaced, is gone or damaged; --to names one of {whole}")
    return replaced


def _superfluous(listed: list[ListedSnapshot], keep: int) -> Iterator[ListedSnapshot]:
    kept = 0
    for one in listed:
        unreadable = one.finished and one.snapshot is None
        if one.current or unreadable or (one.finished and kept < keep):
            kept += one.problem is None
        else:
            yield one


def _place(signals: Path) -> Path:
    """The folder of the snapshots, which is made where it is missing. Raises ``StorageError``."""
    place = signals / SNAPSHOTS
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{place}: cannot be made ({error.strerror})") from error
    return place


@contextmanager
def _moving(signals: Path) -> Iterator[None]:
    """While the block runs, no other process moves the links or removes a snapshot; it waits for its turn."""
    descriptor = os.open(_place(signals), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
