"""A release of a newer catalogue: the model, the ID tables and the compiled generator of an earlier release, with the
catalogue and the index of a later dataset.

Nothing is trained. New items can be recommended and old ones vanish; what the model makes of a user does not change.
Files that stay the same get a second name rather than a copy, so that both releases share them on the disk and in
memory, which a swap needs less of. The manifest names the earlier release in ``extends``; neither needs the other.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pinrec_core.errors import ReleaseError
from pinrec_core.files.file_writing import link_or_copy
from pinrec_core.files.output_folder import built_beside
from pinrec_core.release.format import Release
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.release.manifest import OF_CATALOGUE, Part, check_file
from pinrec_core.release.programs import LOCAL_MANIFEST, LocalProgram, identity, programs_of
from pinrec_core.release.publishing import published
from pinrec_core.validation import load_json, save_json

log = logging.getLogger(__name__)


def extend(
    base: Release,
    serving: IndexedModel,
    *,
    dataset: Path,
    releases: Path,
    metrics: dict[str, Any],
    now: datetime.datetime,
    make_current: bool = True,
    accept_recall: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Release:
    """Write, verify and publish what ``calibration.reindex`` made of ``base`` and ``dataset``; the pointer moves last.

    Every part but catalogue and index is that of ``base``, programs that were compiled beside it included. Raises what
    ``publishing.publish`` raises, and ``ReleaseError`` where a part of ``base`` is damaged.
    """
    manifest = base.manifest
    kept = {name: part for name, part in manifest.parts.items() if name not in OF_CATALOGUE}

    def link_parts(building: Path) -> dict[str, Part]:
        report(f"parts of {manifest.release_id}")
        for part in kept.values():
            (building / part.file).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(base.folder / part.file, building / part.file)
        return kept

    return published(
        serving, link_parts, space=manifest.embedding_space, dataset=dataset, releases=releases,
        training=manifest.training, metrics=metrics, now=now, make_current=make_current, accept_recall=accept_recall,
        report=report, finish=lambda written: _carry_programs(base, written), extends=manifest.release_id,
    )  # fmt: skip


def changed_items(base: Release, made: Release) -> tuple[int, int]:
    """How many items of the catalogue of ``made`` that of ``base`` lacks, and how many it has that are gone."""
    kept = np.intersect1d(base.catalogue.item_key, made.catalogue.item_key, assume_unique=True)
    return len(made.catalogue) - len(kept), len(base.catalogue) - len(kept)


def _carry_programs(base: Release, release: Release) -> None:
    """Put the programs beside ``base`` beside ``release`` too, which has the same model and settings of generation.

    One that cannot be read, or is damaged, is left out with a warning: the release serves without it. Raises
    ``DataError``, ``StorageError`` or ``OSError`` where nothing can be written.
    """
    if not (programs := _programs_beside(base)):
        return
    with built_beside(programs_of(release)) as building:
        for folder, program in programs.items():
            copy = building / folder.name
            copy.mkdir()
            link_or_copy(folder / program.file, copy / program.file)
            save_json(LocalProgram(release=identity(release), program=program), copy / LOCAL_MANIFEST)


def _programs_beside(release: Release) -> dict[Path, Part]:
    """The folders of the whole programs that were compiled from ``release``."""
    programs = {}
    for path in sorted(programs_of(release).glob(f"*/{LOCAL_MANIFEST}")):
        try:
            local = load_json(LocalProgram, path, error=ReleaseError, what="what a program is for")
            if local.release == identity(release):
                check_file(path.parent / local.program.file, local.program)
                programs[path.parent] = local.program
        except (ReleaseError, OSError) as error:
            log.warning("%s is left out: %s", path.parent, error)
    return programs
