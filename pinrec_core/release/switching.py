"""The pointer of a folder of releases moves to a release that was made before: forwards when it has passed every check,
back to the one that was current."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pinrec_core.errors import ReleaseError
from pinrec_core.release.checking import check_answers, check_figures, check_measured_recall
from pinrec_core.release.current import (
    ROLLBACK,
    current_id,
    current_release,
    point_current,
    previous_release,
    read_history,
)
from pinrec_core.release.format import Release
from pinrec_core.release.in_use import using_release
from pinrec_core.release.manifest import ReleaseManifest, open_manifest, verify_files
from pinrec_core.release.portability import check_serves_here
from pinrec_core.release.publishing import check_recall


def publish_existing(
    folder: Path,
    releases: Path,
    *,
    tolerance: float,
    accept_recall: bool = False,
    accept_worse: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Check the release in ``folder`` and make it the current one of ``releases`` → what a person should know of it.

    ``tolerance`` is the share by which its figures may be below those of the current release. Raises ``ReleaseError``
    where a check fails or the release lies elsewhere; the pointer then stays.
    """
    if folder.resolve().parent != Path(releases).resolve():
        raise ReleaseError(f"{folder}: expected a release in {releases}; copy it there first, with all of its files")
    with using_release(folder):  # so that nothing removes it meanwhile
        report("files")
        remarks = [str(finding) for finding in check_serves_here(folder)]
        release = Release.open(folder)
        if release.manifest.release_id != folder.name:
            raise ReleaseError(f"{folder}: release_id={release.manifest.release_id!r}, expected the name of the folder")
        if not accept_recall:
            check_recall(release.manifest.calibration)
        current = _current_manifest(releases)
        if current is not None and current.release_id != release.manifest.release_id and not accept_worse:
            remarks.append(check_figures(release.manifest, current, tolerance))
        report("that its parts belong together")
        release.verify()
        report("the recall of its index")
        check_measured_recall(release)
        report("answers")
        check_answers(release)
        point_current(releases, release.manifest.release_id, by="publish")
    return remarks


def roll_back(releases: Path, to: str | None = None) -> tuple[str | None, str]:
    """Make the release current again that was current before, or ``to`` → the ids of what was current and what is.

    Its files are compared with their checksums first. What is current may itself be gone, and with ``to`` the pointer
    may be missing or strange. Raises ``ReleaseError`` where no earlier release is known, or it is gone or damaged; the
    pointer then stays.
    """
    before = current_release(releases).name if to is None else current_id(releases)
    target = to or previous_release(read_history(releases), str(before))
    if target is None:
        raise ReleaseError(f"{releases}: no release was current before {before}: expected --to with the id of one")
    if target == before:
        raise ReleaseError(f"--to={target!r}: expected another release, this one is current")
    folder = Path(releases) / target
    if not folder.is_dir():
        raise ReleaseError(f"{folder}: expected the release to go back to; it is gone. --to names another one")
    with using_release(folder):
        verify_files(folder)
        check_serves_here(folder)
        point_current(releases, target, by=ROLLBACK)
    return before, target


def _current_manifest(releases: Path) -> ReleaseManifest | None:
    """That of the current release; None where there is none, or none that can be read."""
    try:
        return open_manifest(current_release(releases)) if current_id(releases) else None
    except ReleaseError:
        return None
