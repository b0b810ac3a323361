"""Publishing a release: its parts are exported, verified and renamed into place, then the pointer moves.

A failure at any point leaves no release folder and does not move the pointer.
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
    if not accept_recall:
        check_recall(serving.calibration)
    space = layout.embedding_space_of(serving.model, serving.dataset.feature_space)
    release_id, target = new_release(releases, now, space)
    with built_beside(target) as building:
        report("weights")
        _export_weights(serving.model, building / FILES[MODEL], space)
        rows, tables = torch.from_numpy(serving.embed_ids.rows), building / FILES[ID_EMBEDDER]
        save_tensors({layout.ID_ROWS: rows}, tables, metadata={layout.SPACE_KEY: space})
        parts = {name: Part.of(building, FILES[name], space=space) for name in (MODEL, ID_EMBEDDER)}
        if program is not None:
            folder, parts[PROGRAM] = program
            shutil.copyfile(folder / parts[PROGRAM].file, building / parts[PROGRAM].file)
        written = complete(
            building, serving, parts, release_id=release_id, now=now, dataset=dataset, training=training,
            metrics=metrics, report=report,
        )  # fmt: skip
        report("verification")
        _check_id_embedder(serving.model, written.load_id_embedder(), serving.catalogue)
        written.verify()
    if make_current:
        point_current(releases, release_id, by="make")
    return Release.open(target)


def new_release(releases: Path, now: datetime.datetime, space: str) -> tuple[str, Path]:
    """The id of a release that is made now, and its folder. Raises ``ReleaseError`` where that exists already."""
    release_id = f"{now:%Y%m%dT%H%M%S}-{space[:8]}"
    target = releases / release_id
    if target.exists():
        raise ReleaseError(f"{target}: exists already; a release is never overwritten")
    return release_id, target


def complete(
    building: Path,
    serving: IndexedModel,
    parts: Mapping[str, Part],
    *,
    release_id: str,
    now: datetime.datetime,
    dataset: Path,
    training: HeldOut,
    metrics: dict[str, Any],
    extends: str | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Release:
    """Write catalogue, index and manifest of a release that is built in ``building``, beside the parts that are there.

    Raises ``StorageError`` or ``OSError`` when one cannot be written.
    """
    report(f"index of {len(serving.index):,} items")
    space = parts[MODEL].space
    shutil.copyfile(dataset / FILES[CATALOGUE], building / FILES[CATALOGUE])
    index, vectors = building / FILES[INDEX], building / FILES[VECTORS]
    with writing(index):
        serving.index.write(index, vectors)
    spaces = {INDEX: space, VECTORS: space, CATALOGUE: serving.dataset.feature_space}
    made = {name: Part.of(building, FILES[name], space=belongs) for name, belongs in spaces.items()}
    manifest = ReleaseManifest(
        format=FORMAT,
        release_id=release_id,
        created_at=now.isoformat(timespec="seconds"),
        embedding_space=str(space),
        model=serving.model.config,
        generation=serving.generation,
        dataset=serving.dataset,
        calibration=serving.calibration,
        training=training,
        metrics=metrics,
        parts={**parts, **made},
        extends=extends,
    )
    save_json(manifest, building / MANIFEST_FILE)
    return Release.open(building)


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
