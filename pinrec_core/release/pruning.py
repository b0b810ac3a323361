"""Old releases are removed by rule, but never one that is needed: the current one, the one that a rollback leads to,
and those that a process of this machine serves."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from pathlib import Path

from pinrec_core.errors import ConfigError, require
from pinrec_core.files.held_folder import left_overs, remove_unheld
from pinrec_core.release.current import current_id, holding_pointer, previous_release, read_history
from pinrec_core.release.inventory import ListedRelease, folder_bytes, list_releases
from pinrec_core.release.programs import LOCAL_PROGRAMS


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What a rule removes of a folder of releases."""

    releases: list[Path]
    programs: list[Path]  # folders beside the releases, of releases that go or are gone
    left_overs: list[Path]  # unfinished folders of killed processes
    kept: dict[str, str]  # by release id, why
    bytes: int  # that all of this takes; files that another release shares are not freed

    @property
    def folders(self) -> list[Path]:
        """Everything that is removed."""
        return [*self.releases, *self.programs, *self.left_overs]


def plan_pruning(releases: Path, *, keep: int, older_than: datetime.timedelta | None = None) -> Pruning:
    """What to remove so that the ``keep`` newest releases stay, and all that are not ``older_than``.

    A folder that is no whole release of this format is left alone: what it is, a person has to say. Raises
    ``ConfigError`` for a number below 1, ``ReleaseError`` where there is no such folder.
    """
    require(keep >= 1, "keep", keep, "a number of at least 1", error=ConfigError)
    releases = Path(releases)
    now, listed = datetime.datetime.now(datetime.UTC), list_releases(releases)
    current = current_id(releases)
    previous = previous_release(read_history(releases), current) if current else None
    kept: dict[str, str] = {}
    going: list[Path] = []
    newest = [one.folder.name for one in listed if one.problem is None][:keep]
    for one in listed:
        reason = _needed(one, previous)
        if reason is None and one.folder.name in newest:
            reason = f"one of the {keep} newest"
        if reason is None and older_than is not None and one.created is not None and now - one.created < older_than:
            reason = f"younger than {older_than.total_seconds() / 86_400:g} days"
        if reason is None:
            going.append(one.folder)
        else:
            kept[one.folder.name] = reason
    of_programs = _folders(releases / LOCAL_PROGRAMS)
    staying = set(kept) | {one.manifest.release_id for one in listed if one.manifest and one.folder.name in kept}
    unfinished = [*left_overs(releases), *(path for folder in of_programs for path in left_overs(folder))]
    programs = [folder for folder in of_programs if folder.name not in staying]
    unfinished = [path for path in unfinished if path.parent not in programs]  # those go with their folder
    return Pruning(
        releases=going,
        programs=programs,
        left_overs=unfinished,
        kept=kept,
        bytes=sum(map(folder_bytes, [*going, *programs, *unfinished])),
    )


def prune(releases: Path, *, keep: int, older_than: datetime.timedelta | None = None) -> Pruning:
    """Remove what ``plan_pruning`` names, but for what a process has taken into use meanwhile → what was removed.

    The pointer does not move meanwhile. Raises ``OSError`` where something cannot be removed.
    """
    with holding_pointer(Path(releases)):
        plan = plan_pruning(releases, keep=keep, older_than=older_than)
        taken = {folder.name: "in use" for folder in plan.releases if not remove_unheld(folder)}
        others = [folder for folder in (*plan.programs, *plan.left_overs) if folder.name not in taken]
        removed = [folder for folder in others if remove_unheld(folder)]
    return replace(
        plan,
        releases=[folder for folder in plan.releases if folder.name not in taken],
        programs=[folder for folder in plan.programs if folder in removed],
        left_overs=[folder for folder in plan.left_overs if folder in removed],
        kept=plan.kept | taken,
    )


def _needed(one: ListedRelease, previous: str | None) -> str | None:
    """Why a release may not be removed by any rule; None where it may."""
    if one.current:
        return "current"
    if one.in_use:
        return "in use"
    if one.folder.name == previous:
        return "a rollback leads to it"
    return None if one.problem is None else one.problem


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
