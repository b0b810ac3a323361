"""Making a release from a training run: export, index, calibrate, verify, rename.

A failure at any point leaves no release folder and does not move the pointer.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from pinrec_core import release as layout
from pinrec_core.catalogue import ItemCatalogue
from pinrec_core.compression import compress, compression_ratio
from pinrec_core.config import GenerationConfig
from pinrec_core.dataset import DatasetManifest
from pinrec_core.errors import ReleaseError
from pinrec_core.item_index import ItemIndex
from pinrec_core.release import Release, ReleaseManifest

INDEX_RECALL_TARGET = 0.99
INDEX_RECALL_DEPTH = 100
EXPORT_TOLERANCE = 1e-6
"""TorchScript runs the same kernels on the same numbers; anything above rounding is a fault of the export."""


def publish(
    *,
    model: torch.nn.Module,
    dataset: Path,
    releases: Path,
    generation: GenerationConfig,
    sample_embeddings: torch.Tensor,
    metrics: dict[str, Any],
    compression_target: float | None,
    now: datetime.datetime,
    step: Callable[[str], None] = lambda _: None,
) -> Release:
    """Write, verify and publish a release; the pointer ``current`` moves last.

    ``sample_embeddings`` ``[users, O, n, D]``, generated for held-out users, calibrate the merge threshold to
    ``compression_target`` generated embeddings per kept one (None keeps ``generation``'s) and nprobe to
    ``INDEX_RECALL_TARGET``. ``step`` is told what is being done. Raises ``ReleaseError``.
    """
    manifest_of_data = DatasetManifest.load(dataset)
    space = layout.embedding_space_of(model, manifest_of_data.feature_space)
    release_id = f"{now:%Y%m%dT%H%M%S}-{space[:8]}"
    target = releases / release_id
    if target.exists():
        raise ReleaseError(f"{target}: exists already; a release is never overwritten")
    building = releases / f".building-{release_id}"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        step("catalogue and weights")
        shutil.copyfile(dataset / layout.CATALOGUE_FILE, building / layout.CATALOGUE_FILE)
        manifest_of_data.save(building)
        catalogue = ItemCatalogue.open(building)
        _export_weights(model, building, space)
        id_embedder = _export_id_embedder(model, building, space, catalogue)
        step(f"index of {len(catalogue):,} items")
        index = ItemIndex.build(layout.represent_catalogue(model, id_embedder, catalogue))
        step("calibration")
        queries = sample_embeddings.reshape(-1, index.width).cpu().numpy()[:2048]
        nprobe, recall = index.calibrate(queries, INDEX_RECALL_DEPTH, recall=INDEX_RECALL_TARGET)
        index.write(building / layout.INDEX_FILE)
        generation = replace(generation, nprobe=nprobe)
        if compression_target is not None:
            generation = replace(generation, merge_cosine=calibrate_merge_cosine(sample_embeddings, compression_target))
        manifest = ReleaseManifest(
            format=layout.FORMAT,
            release_id=release_id,
            created_at=now.isoformat(timespec="seconds"),
            embedding_space=space,
            model=model.config,
            generation=generation,
            dataset=manifest_of_data,
            index={
                "type": "IVF_HNSW", "nlist": index.nlist, "nprobe": nprobe,
                f"recall_at_{INDEX_RECALL_DEPTH}": recall,
                "compression_ratio": compression_ratio(compress(sample_embeddings, generation.merge_cosine)),
            },
            metrics=metrics,
            files={
                name: {"bytes": (building / name).stat().st_size, "sha256": layout.sha256(building / name)}
                for name in layout.PARTS
            },
        )  # fmt: skip
        (building / layout.MANIFEST_FILE).write_text(manifest.to_json(), "utf-8")
        step("verification")
        Release.open(building).verify()
        building.rename(target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    layout.point_current(releases, release_id)
    return Release.open(target)


def calibrate_merge_cosine(embedding: torch.Tensor, target_ratio: float) -> float:
    """The threshold that compresses ``[users, O, n, D]`` to about ``target_ratio`` embeddings per kept one.

    The ratio falls as the threshold rises, so it is found by bisection.
    """
    low, high = -1.0, 1.0
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if compression_ratio(compress(embedding, middle)) > target_ratio else (low, middle)
    return round(high, 4)


def _export_weights(model: torch.nn.Module, folder: Path, space: str) -> None:
    weights = {
        name: weight.detach().cpu().contiguous()
        for name, weight in model.state_dict().items()
        if not name.startswith(layout.ID_TABLE_PREFIX)
    }
    safetensors.torch.save_file(weights, folder / layout.MODEL_FILE, metadata={layout.SPACE_KEY: space})


def _export_id_embedder(
    model: torch.nn.Module, folder: Path, space: str, catalogue: ItemCatalogue
) -> torch.jit.ScriptModule:
    """Script, save, load what was saved and compare it with the module it came from."""
    path = folder / layout.ID_EMBEDDER_FILE
    original = model.id_embedding.to("cpu").eval()
    torch.jit.script(original).save(str(path), _extra_files={layout.SPACE_KEY: space})
    loaded = torch.jit.load(str(path)).eval()
    keys = torch.from_numpy(np.array(catalogue.item_key[:4096]))
    with torch.inference_mode():
        difference = float((loaded(keys) - original(keys)).abs().max())
    if difference > EXPORT_TOLERANCE:
        raise ReleaseError(f"{path}: the export differs from the module by {difference}, expected {EXPORT_TOLERANCE}")
    return loaded
