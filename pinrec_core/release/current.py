"""Which release of a folder is the current one: a pointer, a text file that is replaced as a whole."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pinrec_core.errors import ReleaseError, require

CURRENT_FILE = "current"
_RELEASE_ID = re.compile(r"[A-Za-z0-9_.-]+")


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


def point_current(releases: Path, release_id: str) -> None:
    """Make ``release_id`` the current release, by rename."""
    pointer = Path(releases) / CURRENT_FILE
    beside = pointer.with_name(f".{CURRENT_FILE}.{os.getpid()}")
    beside.write_text(release_id + "\n", "utf-8")
    beside.rename(pointer)
