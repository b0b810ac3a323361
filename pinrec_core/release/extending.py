"""A release of a newer catalogue: the model, the ID tables and the compiled generator of an earlier release, with the
catalogue and the index of a later dataset.

Nothing is trained. New items can be recommended and old ones vanish; what the model makes of a user does not change.
Files that stay the same get a second name rather than a copy, so that both releases share them on the disk and in
memory, which a swap needs less of. The manifest names the earlier release in ``extends``; neither needs the other.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pinrec_core.errors import ReleaseError
from pinrec_core.files.file_writing import link_or_copy
from pinrec_core.files.output_folder import built_beside
from pinrec_core.release.current import point_current
from pinrec_core.release.format import Release
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.release.manifest import OF_CATALOGUE
from pinrec_core.release.programs import LOCAL_MANIFEST, LocalProgram, identity, programs_of
from pinrec_core.release.publishing import check_recall, complete, new_release
from pinrec_core.validation import load_json, save_json


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
    if not accept_recall:
        check_recall(serving.calibration)
    manifest = base.manifest
    release_id, target = new_release(releases, now, manifest.embedding_space)
    kept = {name: part for name, part in manifest.parts.items() if name not in OF_CATALOGUE}
    with built_beside(target) as building:
        report(f"parts of {manifest.release_id}")
        for part in kept.values():
            (building / part.file).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(base.folder / part.file, building / part.file)
        written = complete(
            building, serving, kept, release_id=release_id, now=now, dataset=dataset, training=manifest.training,
            metrics=metrics, extends=manifest.release_id, report=report,
        )  # fmt: skip
        report("verification")
        written.verify()
    made = Release.open(target)
    _carry_programs(base, made)
    if make_current:
        point_current(releases, release_id, by="extend")
    return made


def changed_items(base: Release, made: Release) -> tuple[int, int]:
    """How many items of the catalogue of ``made`` that of ``base`` lacks, and how many it has that are gone."""
    kept = np.intersect1d(base.catalogue.item_key, made.catalogue.item_key, assume_unique=True)
    return len(made.catalogue) - len(kept), len(base.catalogue) - len(kept)


def _carry_programs(base: Release, release: Release) -> None:
    """Put the programs beside ``base`` beside ``release`` too, which has the same model and settings of generation.

    Raises ``ReleaseError`` for a ``program.json`` that cannot be read, and ``DataError``, ``StorageError``
    or ``OSError`` where nothing can be written.
    """
    for folder in sorted(programs_of(base).glob(f"*/{LOCAL_MANIFEST}")):
        local = load_json(LocalProgram, folder, error=ReleaseError, what="what a program is for")
        if local.release != identity(base):
            continue
        with built_beside(programs_of(release) / folder.parent.name) as building:
            link_or_copy(folder.parent / local.program.file, building / local.program.file)
            save_json(LocalProgram(release=identity(release), program=local.program), building / LOCAL_MANIFEST)
