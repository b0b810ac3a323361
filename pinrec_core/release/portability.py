"""What this machine lacks, or has differently, of what a release needs: a release is often made on another one.

Nothing here loads torch or opens a part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pinrec_core.errors import ReleaseError
from pinrec_core.release.format import Release
from pinrec_core.release.machine import Machine
from pinrec_core.release.manifest import MANIFEST_FILE, Part, ReleaseManifest, open_manifest
from pinrec_core.release.programs import PROGRAM, fitting_program
from pinrec_core.validation import read_json


class Severity(StrEnum):
    """Whether a release can serve in spite of a finding."""

    ERROR = "error"  # it cannot
    WARNING = "warning"  # it serves slower, or may run out of something


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A sentence about a release on this machine."""

    severity: Severity
    text: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.text}"


def check_on_this_machine(folder: Path, machine: Machine | None = None) -> list[Finding]:
    """Everything that keeps the release in ``folder`` from serving here, and everything that makes it serve worse.

    Empty where nothing does. Checked are the format, the files and whether they may be read, paths of another machine
    in the manifest, torch, the compiled generator, and memory; not the checksums, which ``verify_files`` compares.
    """
    machine = machine or Machine.here()
    try:
        manifest = open_manifest(folder)
    except ReleaseError as error:  # another format, or a part that is not there
        return [Finding(severity=Severity.ERROR, text=str(error))]
    release = Release(Path(folder), manifest)
    return [*_of_files(release), *_of_torch(release, machine), *_of_memory(manifest, machine)]


def check_serves_here(folder: Path) -> list[Finding]:
    """The warnings of ``check_on_this_machine``. Raises ``ReleaseError`` where there is an error among the findings."""
    findings = check_on_this_machine(folder)
    errors = [finding.text for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        raise ReleaseError("; ".join(errors))
    return findings


def memory_needed(manifest: ReleaseManifest) -> int:
    """Bytes of memory that serving fills with the parts: each is mapped or read once, whatever processes share it.

    The processes themselves come on top, some hundred MiB in all. A swap holds two releases.
    """
    return sum(part.bytes for part in manifest.parts.values())


def _of_files(release: Release) -> Iterator[Finding]:
    for file in (MANIFEST_FILE, *(part.file for part in release.manifest.parts.values())):
        if not os.access(release.folder / file, os.R_OK):
            text = f"{release.folder / file}: expected a file that this user may read; chmod a+r it where it was made"
            yield Finding(severity=Severity.ERROR, text=text)
    raw = read_json(release.folder / MANIFEST_FILE, error=ReleaseError, what="the manifest of a release")
    del raw["dataset"]  # its vocabularies are the log's words: a surface may be named like a path
    for field, value in _texts(raw):
        if Path(value).is_absolute():
            text = f"{release.folder / MANIFEST_FILE}: {field}={value!r}: expected no path of the machine that made it"
            yield Finding(severity=Severity.ERROR, text=text)


def _of_torch(release: Release, machine: Machine) -> Iterator[Finding]:
    if machine.torch is None:
        yield Finding(severity=Severity.ERROR, text="torch is not installed here: expected it for the generator")
    own = release.manifest.parts.get(PROGRAM)
    try:
        found = fitting_program(release)
    except ReleaseError as error:
        yield Finding(severity=Severity.WARNING, text=str(error))
        found = None
    if own is not None and found is None:
        text = f"{own.file} does not fit this machine: {_difference(own, machine)}; the generator runs uncompiled, "
        yield Finding(severity=Severity.WARNING, text=text + "and `pinrec tune` compiles one for this machine")


def _difference(program: Part, machine: Machine) -> str:
    """What the program was compiled for and what is here, as far as they differ."""
    parts = []
    if (torch := program.attributes.get("torch")) != machine.torch:
        parts.append(f"made with torch {torch}, here is {machine.torch}")
    made = set(program.attributes.get("processor", "").split())
    here = set(machine.processor.split())
    if made - here:
        parts.append(f"it uses {' '.join(sorted(made - here))}, which this processor lacks")
    elif here - made:
        parts.append(f"this processor has {' '.join(sorted(here - made))} besides")
    return " and ".join(parts)


def _of_memory(manifest: ReleaseManifest, machine: Machine) -> Iterator[Finding]:
    needed = memory_needed(manifest)
    if machine.memory is not None and needed > machine.memory:
        text = f"the parts take {_mib(needed)} of memory, this machine has {_mib(machine.memory)}"
        yield Finding(severity=Severity.ERROR, text=text)
    elif machine.available is not None and 2 * needed > machine.available:
        text = (
            f"the parts take {_mib(needed)} of memory and twice that during a swap, {_mib(machine.available)} are free"
        )
        yield Finding(severity=Severity.WARNING, text=text)


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text within a JSON document, with its place."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{name}.{key}".removeprefix("."))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _texts(inner, f"{name}[{place}]")
