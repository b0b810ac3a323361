"""Which release of a folder is the current one: a pointer, a text file that is replaced as a whole.

Every move of the pointer is a line of ``history.jsonl`` beside it: when, from which release, to which, and by which
command. What was current before is found there, so that a release can be taken back.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pinrec_core.errors import ReleaseError, require
from pinrec_core.validation import from_plain, to_plain, validated

CURRENT_FILE = "current"
HISTORY_FILE = "history.jsonl"
ROLLBACK = "rollback"
_RELEASE_ID = re.compile(r"[A-Za-z0-9_.-]+")


@validated(ReleaseError)
class PointerMove:
    """A line of the history."""

    at: str  # UTC, to the second
    previous: str | None  # None at the first move
    current: str
    by: str  # the command: make, extend, publish or rollback


def check_release_id(release_id: str) -> None:
    """Raises ``ReleaseError`` for what is no release id: it names a folder, and Triton's models."""
    named = _RELEASE_ID.fullmatch(release_id) is not None and release_id.strip(".") != ""
    require(named, "release_id", release_id, "letters, digits, _ . and -", error=ReleaseError)


def current_release(releases: Path) -> Path:
    """The folder that ``releases/current`` names. Raises ``ReleaseError`` when there is none."""
    pointer = Path(releases) / CURRENT_FILE
    if not pointer.is_file():
        raise ReleaseError(f"{pointer}: expected the id of a release; publish one with `pinrec release`")
    release_id = pointer.read_text("utf-8", errors="replace").strip()
    try:
        check_release_id(release_id)
    except ReleaseError as error:
        raise ReleaseError(f"{pointer}: {error}") from error
    return Path(releases) / release_id


def current_id(releases: Path) -> str | None:
    """The id of the current release; None where there is no pointer, or a strange one."""
    try:
        return current_release(releases).name
    except ReleaseError:
        return None


def point_current(releases: Path, release_id: str, *, by: str = "make") -> None:
    """Make ``release_id`` the current release, by rename, and add the move to the history. ``by`` is the command.

    The line is written first: killed between the two, a process leaves a line for a move that was not made, which
    ``previous_release`` recognises by the next line or the pointer. Raises ``OSError`` where either cannot be written.
    """
    check_release_id(release_id)
    pointer = Path(releases) / CURRENT_FILE
    with holding_pointer(releases) as history:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        move = PointerMove(at=now, previous=current_id(releases), current=release_id, by=by)
        history.write(_after_a_whole_line(history) + json.dumps(to_plain(move)).encode() + b"\n")
        history.flush()
        beside = pointer.with_name(f".{CURRENT_FILE}.new")
        with beside.open("w", encoding="utf-8") as file:
            file.write(release_id + "\n")
            file.flush()
            os.fsync(file.fileno())  # an empty pointer after a power cut would stop the next start
        beside.rename(pointer)


@contextmanager
def holding_pointer(releases: Path) -> Iterator[BinaryIO]:
    """The file of the history, to append to. Another process that wants to move the pointer waits for the block's end.

    Raises ``OSError`` where the file cannot be written.
    """
    with (Path(releases) / HISTORY_FILE).open("a+b") as history:
        fcntl.flock(history, fcntl.LOCK_EX)
        yield history


def read_history(releases: Path) -> list[PointerMove]:
    """The moves of the pointer, oldest first; none where there is no history.

    A line that is no move is left out: the disk was full, or a person changed the file.
    """
    path = Path(releases) / HISTORY_FILE
    moves = []
    for line in path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            moves.append(from_plain(PointerMove, json.loads(line), error=ReleaseError))
        except (ValueError, ReleaseError):
            continue
    return moves


def previous_release(moves: Sequence[PointerMove], current: str) -> str | None:
    """The release to which taking back ``current`` leads: the one that was current before it came. None without one.

    After a rollback from C to B that is not C again but what was before B.
    """
    came: list[str] = []  # the releases that led to the one that is current; the last one is

    def back_to(release_id: str) -> None:
        if release_id in came:
            del came[len(came) - came[::-1].index(release_id) :]
        else:
            came.append(release_id)

    for move in moves:
        if move.previous is not None:
            back_to(move.previous)  # what the line before says was not done, where this is another one
        if move.by == ROLLBACK:
            back_to(move.current)
        elif came[-1:] != [move.current]:
            came.append(move.current)
    back_to(current)
    return came[-2] if len(came) > 1 else None


def _after_a_whole_line(history: BinaryIO) -> bytes:
    """What has to stand before the next line: a line break where the last line was cut short."""
    if not history.seek(0, os.SEEK_END):
        return b""
    history.seek(-1, os.SEEK_END)
    return b"" if history.read(1) == b"\n" else b"\n"
