"""Publishing a release: its parts are exported, verified and renamed into place, then the pointer moves.

A failure before the pointer's turn leaves no release folder and does not move the pointer.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.errors import ReleaseError
from pinrec_core.files.file_writing import save_tensors, writing
from pinrec_core.files.output_folder import built_beside
from pinrec_core.model.sequence_model import SequenceModel
from pinrec_core.release import format as layout
from pinrec_core.release.current import point_current
from pinrec_core.release.format import Release
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.release.manifest import (
    CATALOGUE,
    FILES,
    FORMAT,
    ID_EMBEDDER,
    INDEX,
    MANIFEST_FILE,
    MODEL,
    VECTORS,
    Calibration,
    HeldOut,
    Part,
    ReleaseManifest,
)
from pinrec_core.release.programs import PROGRAM
from pinrec_core.representations.id_tables import IdTables, RowFormat
from pinrec_core.validation import save_json

EXPORT_TOLERANCES = {RowFormat.FP16: 2**-11, RowFormat.INT8: 1 / 254 + 2**-11}
"""Largest rounding of an ID embedding, as a share of the largest value: that of FP16, and half a step of INT8 besides.
Anything above is a fault of the export."""


def publish(
    serving: IndexedModel,
    *,
    dataset: Path,
    releases: Path,
    training: HeldOut,
    metrics: dict[str, Any],
    now: datetime.datetime,
    make_current: bool = True,
    accept_recall: bool = False,
    program: tuple[Path, Part] | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Release:
    """Write, verify and publish a release; the pointer ``current`` moves last.

    ``program`` is a folder and the compiled generator that ``release.compiling`` has put into it, of which the release
    gets a copy. ``report`` is told what is being done. Raises ``ReleaseError`` for an index below its recall target,
    unless ``accept_recall``, and when a part does not verify, ``StorageError`` or ``OSError`` when a part cannot be
    written.
    """
    space = layout.embedding_space_of(serving.model, serving.dataset.feature_space)

    def write_parts(building: Path) -> dict[str, Part]:
        report("weights")
        _export_weights(serving.model, building / FILES[MODEL], space)
        rows, tables = torch.from_numpy(serving.embed_ids.rows), building / FILES[ID_EMBEDDER]
        save_tensors({layout.ID_ROWS: rows}, tables, metadata={layout.SPACE_KEY: space})
        parts = {name: Part.of(building, FILES[name], space=space) for name in (MODEL, ID_EMBEDDER)}
        if program is not None:
            folder, parts[PROGRAM] = program
            shutil.copyfile(folder / parts[PROGRAM].file, building / parts[PROGRAM].file)
        return parts

    return published(
        serving, write_parts, space=space, dataset=dataset, releases=releases, training=training, metrics=metrics,
        now=now, make_current=make_current, accept_recall=accept_recall, report=report,
        finish=lambda written: _check_id_embedder(serving.model, written.load_id_embedder(), serving.catalogue),
    )  # fmt: skip


def published(
    serving: IndexedModel,
    write_parts: Callable[[Path], Mapping[str, Part]],
    *,
    space: str,
    dataset: Path,
    releases: Path,
    training: HeldOut,
    metrics: dict[str, Any],
    now: datetime.datetime,
    make_current: bool,
    accept_recall: bool,
    report: Callable[[str], None],
    finish: Callable[[Release], None],
    extends: str | None = None,
) -> Release:
    """Write, verify and publish a release, wherever its parts come from.

    ``write_parts`` puts model, ID tables and what is optional into the folder that it is given; catalogue, index and
    manifest join them. ``finish`` gets the release when it is whole and verified, before it is in its place. Raises
    what these two raise, and what ``publish`` does.
    """
    if not accept_recall:
        check_recall(serving.calibration)
    release_id = f"{now:%Y%m%dT%H%M%S}-{space[:8]}"
    target = releases / release_id
    if target.exists():
        raise ReleaseError(f"{target}: exists already; a release is never overwritten")
    with built_beside(target) as building:
        parts = {**write_parts(building), **_write_items(building, serving, dataset, space, report)}
        manifest = ReleaseManifest(
            format=FORMAT,
            release_id=release_id,
            created_at=now.isoformat(timespec="seconds"),
            embedding_space=space,
            model=serving.model.config,
            generation=serving.generation,
            dataset=serving.dataset,
            calibration=serving.calibration,
            training=training,
            metrics=metrics,
            parts=parts,
            extends=extends,
        )
        save_json(manifest, building / MANIFEST_FILE)
        report("verification")
        written = Release.open(building)
        written.verify()
        finish(written)
    if make_current:
        point_current(releases, release_id, by="make" if extends is None else "extend")
    return Release.open(target)


def _write_items(
    building: Path, serving: IndexedModel, dataset: Path, space: str, report: Callable[[str], None]
) -> dict[str, Part]:
    """Write the parts that depend on the catalogue: itself and its index."""
    report(f"index of {len(serving.index):,} items")
    shutil.copyfile(dataset / FILES[CATALOGUE], building / FILES[CATALOGUE])
    index, vectors = building / FILES[INDEX], building / FILES[VECTORS]
    with writing(index):
        serving.index.write(index, vectors)
    spaces = {INDEX: space, VECTORS: space, CATALOGUE: serving.dataset.feature_space}
    return {name: Part.of(building, FILES[name], space=belongs) for name, belongs in spaces.items()}


def check_recall(calibration: Calibration) -> None:
    """Raises ``ReleaseError`` where the index finds less than its target of what exact search finds."""
    if calibration.recall < calibration.recall_target:
        raise ReleaseError(
            f"the index reaches a recall@{calibration.recall_depth} of {calibration.recall:.3f} with "
            f"nprobe={calibration.nprobe} of {calibration.nlist} lists, expected at least "
            f"{calibration.recall_target:g} of what exact search finds for generated queries; train longer, so that "
            "what is generated lies nearer to items, or publish it all the same with --accept-recall"
        )


def _export_weights(model: SequenceModel, path: Path, space: str) -> None:
    weights = {
        name: weight for name, weight in model.state_dict().items() if not name.startswith(layout.ID_TABLE_PREFIX)
    }
    save_tensors(weights, path, metadata={layout.SPACE_KEY: space})


def _check_id_embedder(model: SequenceModel, written: IdTables, catalogue: ItemCatalogue) -> None:
    """Compare what was written with the module that was trained."""
    keys = torch.from_numpy(np.array(catalogue.item_key[:4096]))
    with torch.inference_mode():
        trained = model.id_embedding(keys.to(model.start_token.device)).cpu().numpy()
    largest = np.abs(trained).max(initial=0.0)  # of nothing, for a model without ID tables
    difference = float(np.abs(written(keys).numpy() - trained).max(initial=0.0))
    expected = EXPORT_TOLERANCES[written.row_format] * float(largest)
    if not difference <= expected:
        raise ReleaseError(f"ID tables: the export differs from the module by {difference}, expected {expected}")
