"""Which compiled generator a release runs: a program for one kind of processor and one version of torch.

It is an optional part of the release, or it was compiled on the machine that serves and lies beside the releases::

    releases/programs/20260101T120000-1a2b3c4d/<fit>/
      program.json                 which release it was compiled from, its checksum, what it was compiled for
      generator_program.pt2

``compiling`` makes either. Where none fits, the generator runs the plain model, and says so once if there is another.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pinrec_core.errors import ReleaseError
from pinrec_core.release.format import Release
from pinrec_core.release.machine import processor, torch_version
from pinrec_core.release.manifest import MANIFEST_FILE, Part, check_file, sha256
from pinrec_core.validation import load_json, validated

if TYPE_CHECKING:
    from pinrec_core.generation.program import Generate

PROGRAM = "generator_program"
FILE = "generator_program.pt2"
LOCAL_PROGRAMS = "programs"
LOCAL_MANIFEST = "program.json"

log = logging.getLogger(__name__)


@validated(ReleaseError)
class LocalProgram:
    """What ``program.json`` holds."""

    release: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # ``identity`` of what was compiled
    program: Part


def fit_of_this_machine() -> dict[str, str]:
    """What a program must have been compiled for to run here."""
    return {"processor": processor(), "torch": torch_version() or "none"}


def identity(release: Release) -> str:
    """The checksum of the release's manifest, which names those of all of its parts."""
    return sha256(release.folder / MANIFEST_FILE)


def programs_of(release: Release) -> Path:
    """The folder of the programs that were compiled from this release for one machine or another, if there are any."""
    return release.folder.resolve().parent / LOCAL_PROGRAMS / release.manifest.release_id


def local_folder(release: Release) -> Path:
    """Where a program of this release that was compiled on such a machine lies, if there is one."""
    fit = hashlib.sha256(json.dumps(fit_of_this_machine(), sort_keys=True).encode()).hexdigest()[:16]
    return programs_of(release) / fit


def fitting_program(release: Release) -> tuple[Path, Part] | None:
    """The file of the program that runs here, the release's own first, and what is known of it; None without one.

    The file is not compared with its checksum. Raises ``ReleaseError`` for a ``program.json`` that cannot be read.
    """
    own = release.manifest.parts.get(PROGRAM)
    if own is not None and not misfit(own):
        return release.folder / own.file, own
    folder = local_folder(release)
    if not folder.is_dir():
        return None
    local = load_json(LocalProgram, folder / LOCAL_MANIFEST, error=ReleaseError, what="what a program is for")
    if local.release != identity(release):
        log.warning("%s: compiled from another release of this name; it is not used", folder)
        return None
    return folder / local.program.file, local.program


def load_program(release: Release) -> Generate | None:
    """The compiled generator of a release, or None, with one warning where it was made for another machine.

    Raises ``ReleaseError`` for a program that was changed or damaged.
    """
    from pinrec_core.generation.program import load_package  # imports torch, which only who runs a program needs

    found = fitting_program(release)
    if found is None:
        if (own := release.manifest.parts.get(PROGRAM)) is not None:
            here, path = misfit(own), release.folder / own.file
            other = {name: own.attributes.get(name) for name in here}
            log.warning("%s: compiled for %s, this machine has %s; the generator runs uncompiled", path, other, here)
        return None
    path, part = found
    check_file(path, part)
    generate = load_package(path)
    log.info("%s: the generator runs compiled, products in %s", path, part.attributes["products"])
    return generate


def misfit(part: Part) -> dict[str, str]:
    """What this machine has where the program was compiled for something else."""
    return {name: value for name, value in fit_of_this_machine().items() if part.attributes.get(name) != value}
