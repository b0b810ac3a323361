"""Publishing a release: its parts are exported, verified and renamed into place, then the pointer moves.

A failure at any point leaves no release folder and does not move the pointer.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
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
from pinrec_core.release.format import Calibration, HeldOut, Part, Release, ReleaseManifest
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.validation import save_json

EXPORT_TOLERANCE = 1e-6
"""TorchScript runs the same kernels on the same numbers; anything above rounding is a fault of the export."""


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
    report: Callable[[str], None] = lambda _: None,
) -> Release:
    """Write, verify and publish a release; the pointer ``current`` moves last.

    ``report`` is told what is being done. Raises ``ReleaseError`` for an index below its recall target, unless
    ``accept_recall``, and when a part does not verify, ``StorageError`` or
    ``OSError`` when one cannot be written.
    """
    if not accept_recall:
        check_recall(serving.calibration)
    space = layout.embedding_space_of(serving.model, serving.dataset.feature_space)
    release_id = f"{now:%Y%m%dT%H%M%S}-{space[:8]}"
    target = releases / release_id
    if target.exists():
        raise ReleaseError(f"{target}: exists already; a release is never overwritten")
    with built_beside(target) as building:
        report("weights")
        shutil.copyfile(dataset / layout.CATALOGUE_FILE, building / layout.FILES[layout.CATALOGUE])
        _export_weights(serving.model, building / layout.FILES[layout.MODEL], space)
        _export_id_embedder(serving.model, building / layout.FILES[layout.ID_EMBEDDER], space, serving.catalogue)
        report(f"index of {len(serving.index):,} items")
        index = building / layout.FILES[layout.INDEX]
        with writing(index):
            serving.index.write(index)
        spaces = dict.fromkeys(layout.FILES, space) | {layout.CATALOGUE: serving.dataset.feature_space}
        manifest = ReleaseManifest(
            format=layout.FORMAT,
            release_id=release_id,
            created_at=now.isoformat(timespec="seconds"),
            embedding_space=space,
            model=serving.model.config,
            generation=serving.generation,
            dataset=serving.dataset,
            calibration=serving.calibration,
            training=training,
            metrics=metrics,
            parts={name: Part.of(building, file, space=spaces[name]) for name, file in layout.FILES.items()},
        )
        save_json(manifest, building / layout.MANIFEST_FILE)
        report("verification")
        Release.open(building).verify()
    if make_current:
        point_current(releases, release_id)
    return Release.open(target)


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


def _export_id_embedder(model: SequenceModel, path: Path, space: str, catalogue: ItemCatalogue) -> None:
    """Script, save, load what was saved and compare it with the module it came from."""
    original = model.id_embedding.to("cpu").eval()
    exported = torch.jit.script(original).save_to_buffer(_extra_files={layout.SPACE_KEY: space})
    with writing(path):
        path.write_bytes(exported)  # where torch writes the file itself, a full disk aborts the process
    loaded = torch.jit.load(str(path)).eval()
    keys = torch.from_numpy(np.array(catalogue.item_key[:4096]))
    with torch.inference_mode():
        difference = float((loaded(keys) - original(keys)).abs().numpy().max(initial=0.0))  # a model without ID tables
    if difference > EXPORT_TOLERANCE:
        raise ReleaseError(f"{path}: the export differs from the module by {difference}, expected {EXPORT_TOLERANCE}")
