"""The releases in a folder: those that serving could read, and what else lies there."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from pinrec_core.errors import ReleaseError
from pinrec_core.release.current import current_id
from pinrec_core.release.in_use import release_in_use
from pinrec_core.release.manifest import MANIFEST_FILE, ReleaseManifest, open_manifest
from pinrec_core.release.programs import LOCAL_MANIFEST, LOCAL_PROGRAMS


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRelease:
    """A folder among the releases. It has a manifest or a problem."""

    folder: Path
    manifest: ReleaseManifest | None
    problem: str | None  # why it cannot serve
    foreign: bool  # whether it has no manifest at all
    current: bool
    in_use: bool  # by a process of this machine
    local_programs: int  # compiled beside the releases for one machine or another

    @property
    def created(self) -> datetime.datetime | None:
        """When it was made; None where nobody knows."""
        try:
            made = datetime.datetime.fromisoformat(self.manifest.created_at if self.manifest else "")
        except ValueError:
            return None
        return made if made.tzinfo else made.replace(tzinfo=datetime.UTC)

    @property
    def bytes(self) -> int:
        """The size of its files."""
        return folder_bytes(self.folder)


def list_releases(releases: Path) -> list[ListedRelease]:
    """Every folder in ``releases`` that is or might be a release, newest first; those that cannot serve come last.

    Raises ``ReleaseError`` where there is no such folder.
    """
    releases = Path(releases)
    if not releases.is_dir():
        raise ReleaseError(f"releases={str(releases)!r}: expected a folder of releases, made by `pinrec release RUN`")
    current = current_id(releases)
    found = [
        _listed(folder, current)
        for folder in sorted(releases.iterdir())
        if folder.is_dir() and not folder.name.startswith(".") and folder.name != LOCAL_PROGRAMS
    ]
    never = datetime.datetime.min.replace(tzinfo=datetime.UTC)
    return sorted(found, key=lambda one: (one.created or never, one.folder.name), reverse=True)


def find_release(named: str, releases: Path) -> Path:
    """The folder of a release that is given by its id, as one of ``releases``, or by its path.

    Raises ``ReleaseError`` where there is no such folder.
    """
    if "/" not in named and (Path(releases) / named).is_dir():
        return Path(releases) / named
    if Path(named).is_dir():
        return Path(named)
    raise ReleaseError(f"release={named!r}: expected a release folder, or the id of a release in {releases}")


def folder_bytes(folder: Path) -> int:
    """The size of the files in a folder and all below it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _listed(folder: Path, current: str | None) -> ListedRelease:
    manifest, problem = None, None
    try:
        manifest = open_manifest(folder)
        if manifest.release_id != folder.name:
            problem = f"{folder}: release_id={manifest.release_id!r}, expected the name of the folder"
    except ReleaseError as error:
        problem = str(error)
    programs = folder.parent / LOCAL_PROGRAMS / folder.name
    return ListedRelease(
        folder=folder,
        manifest=manifest,
        problem=problem,
        foreign=not (folder / MANIFEST_FILE).is_file(),
        current=folder.name == current,
        in_use=_in_use(folder),
        local_programs=len(list(programs.glob(f"*/{LOCAL_MANIFEST}"))),
    )


def _in_use(folder: Path) -> bool:
    try:
        return release_in_use(folder)
    except OSError:  # another user's, which cannot be read
        return False
