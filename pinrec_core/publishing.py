"""Publishing a release: export, verify, rename, move the pointer.

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

from pinrec_core import release as layout
from pinrec_core.catalogue import ItemCatalogue
from pinrec_core.errors import ReleaseError
from pinrec_core.file_writing import save_tensors, writing
from pinrec_core.indexed_model import IndexedModel
from pinrec_core.output_folder import built_beside
from pinrec_core.release import Release, ReleaseManifest
from pinrec_core.sequence_model import SequenceModel

EXPORT_TOLERANCE = 1e-6
"""TorchScript runs the same kernels on the same numbers; anything above rounding is a fault of the export."""


def publish(
    serving: IndexedModel,
    *,
    dataset: Path,
    releases: Path,
    metrics: dict[str, Any],
    now: datetime.datetime,
    make_current: bool = True,
    report: Callable[[str], None] = lambda _: None,
) -> Release:
    """Write, verify and publish a release; the pointer ``current`` moves last.

    ``report`` is told what is being done. Raises ``ReleaseError`` when a part does not verify, ``StorageError`` or
    ``OSError`` when one cannot be written.
    """
    space = layout.embedding_space_of(serving.model, serving.dataset.feature_space)
    release_id = f"{now:%Y%m%dT%H%M%S}-{space[:8]}"
    target = releases / release_id
    if target.exists():
        raise ReleaseError(f"{target}: exists already; a release is never overwritten")
    with built_beside(target) as building:
        report("weights")
        shutil.copyfile(dataset / layout.CATALOGUE_FILE, building / layout.CATALOGUE_FILE)
        serving.dataset.save(building)
        _export_weights(serving.model, building, space)
        _export_id_embedder(serving.model, building, space, serving.catalogue)
        report(f"index of {len(serving.index):,} items")
        with writing(building / layout.INDEX_FILE):
            serving.index.write(building / layout.INDEX_FILE)
        manifest = ReleaseManifest(
            format=layout.FORMAT,
            release_id=release_id,
            created_at=now.isoformat(timespec="seconds"),
            embedding_space=space,
            model=serving.model.config,
            generation=serving.generation,
            dataset=serving.dataset,
            index=serving.calibration,
            metrics=metrics,
            files={
                name: {"bytes": (building / name).stat().st_size, "sha256": layout.sha256(building / name)}
                for name in layout.PARTS
            },
        )
        (building / layout.MANIFEST_FILE).write_text(manifest.to_json(), "utf-8")
        report("verification")
        Release.open(building).verify()
    if make_current:
        layout.point_current(releases, release_id)
    return Release.open(target)


def _export_weights(model: SequenceModel, folder: Path, space: str) -> None:
    weights = {
        name: weight for name, weight in model.state_dict().items() if not name.startswith(layout.ID_TABLE_PREFIX)
    }
    save_tensors(weights, folder / layout.MODEL_FILE, metadata={layout.SPACE_KEY: space})


def _export_id_embedder(model: SequenceModel, folder: Path, space: str, catalogue: ItemCatalogue) -> None:
    """Script, save, load what was saved and compare it with the module it came from."""
    path = folder / layout.ID_EMBEDDER_FILE
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
