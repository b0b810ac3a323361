"""A release: one immutable, versioned folder with everything serving needs.

::

    releases/
      current                      text: the release id that serves
      20260101T120000-1a2b3c4d/
        manifest.json              identity, configuration, vocabularies, checksums
        model.safetensors          embedders, decoder, head
        id_embedder.pt             TorchScript, CPU
        index.faiss                item vectors; row = catalogue row
        catalogue.arrow            ids, titles, INT8 features
        dataset.json               the dataset's manifest

A release is written beside and renamed into place, so a folder with a valid name is whole. A part's checksum is checked
when it is read, and so is the identity of the embedding space that model and ID embedder carry. ``Release.verify``
checks the whole: that the index holds what this model makes of these items, even where checksums were made to agree.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from pinrec_core.catalogue import FILE_NAME as CATALOGUE_FILE
from pinrec_core.catalogue import ItemCatalogue
from pinrec_core.config import GenerationConfig, ModelConfig
from pinrec_core.dataset import DatasetManifest
from pinrec_core.device import torch_device
from pinrec_core.errors import ReleaseError
from pinrec_core.item_index import ItemIndex
from pinrec_core.model_of_variant import generative_model
from pinrec_core.sequence_model import SequenceModel

FORMAT = 1
MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.safetensors"
ID_EMBEDDER_FILE = "id_embedder.pt"
INDEX_FILE = "index.faiss"
DATASET_FILE = "dataset.json"
PARTS = (MODEL_FILE, ID_EMBEDDER_FILE, INDEX_FILE, CATALOGUE_FILE, DATASET_FILE)
CURRENT_FILE = "current"
EVALUATION_SHARE_KEY = "evaluation_share"
"""In the metrics: the share of users that training held out, by hash. Others must not be judged on."""
SPACE_KEY = "embedding_space"
ID_TABLE_PREFIX = "id_embedding."
"""Weights under this prefix travel in the ID embedder, not in ``model.safetensors``."""

PROBES = 16
PROBE_TOLERANCE = 2e-2
"""Largest difference between a stored vector and one made now: serving passes the ID embedding on in FP16 (2^-11
relative), which the embedder's LayerNorm can amplify for small table rows; two different models differ by about 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseManifest:
    """What ``manifest.json`` holds."""

    format: int
    release_id: str
    created_at: str
    embedding_space: str
    model: ModelConfig
    generation: GenerationConfig
    dataset: DatasetManifest
    index: dict[str, Any]  # structure and the recall it was calibrated to
    metrics: dict[str, Any]  # offline evaluation of the run
    files: dict[str, dict[str, Any]]  # name → bytes, sha256

    def to_json(self) -> str:
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain |= {
            "model": self.model.to_dict(),
            "generation": self.generation.to_dict(),
            "dataset": asdict(self.dataset),
        }
        return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str) -> ReleaseManifest:
        plain = json.loads(text)
        known = {f.name for f in fields(ReleaseManifest)}
        if set(plain) != known:
            raise ReleaseError(f"manifest keys {sorted(set(plain) ^ known)}: expected exactly {sorted(known)}")
        if plain["format"] != FORMAT:
            raise ReleaseError(f"format={plain['format']}: expected {FORMAT}; make the release again with this version")
        plain["model"] = ModelConfig.from_dict(plain["model"])
        plain["generation"] = GenerationConfig.from_dict(plain["generation"])
        plain["dataset"] = DatasetManifest(**plain["dataset"])
        return ReleaseManifest(**plain)


class Release:
    """A verified view of one release folder. A part is checked when it is first read, by whoever reads it."""

    def __init__(self, folder: Path, manifest: ReleaseManifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @staticmethod
    def open(folder: Path) -> Release:
        """Raises ``ReleaseError`` for a missing or unreadable manifest, or a part that is absent or of another size."""
        folder = Path(folder)
        path = folder / MANIFEST_FILE
        if not path.is_file():
            raise ReleaseError(f"{folder}: not a release, {MANIFEST_FILE} is missing")
        try:
            manifest = ReleaseManifest.from_json(path.read_text("utf-8"))
            expected = {name: (int(part["bytes"]), str(part["sha256"])) for name, part in manifest.files.items()}
        except (ValueError, TypeError, KeyError) as error:
            raise ReleaseError(f"{path}: not readable as a release manifest ({error})") from error
        for name in PARTS:
            if name not in expected:
                raise ReleaseError(f"{path}: files lacks {name}")
            part = folder / name
            size = part.stat().st_size if part.is_file() else None
            if size != expected[name][0]:
                raise ReleaseError(f"{part}: {size} bytes, expected {expected[name][0]}")
        return Release(folder, manifest)

    def verify(self) -> None:
        """Check every part: checksums, embedding space, and that the index holds what this model makes of the items."""
        if len(self.index) != len(self.catalogue):
            raise ReleaseError(
                f"{INDEX_FILE} holds {len(self.index)} vectors, expected {len(self.catalogue)}, one per item"
            )
        if DatasetManifest.load(self._verified(DATASET_FILE).parent) != self.manifest.dataset:
            raise ReleaseError(
                f"{DATASET_FILE}: expected the dataset of {MANIFEST_FILE}; it belongs to another release"
            )
        rows = np.linspace(0, len(self.catalogue) - 1, num=min(PROBES, len(self.catalogue)), dtype=np.int64)
        made = represent_catalogue(self.load_model("cpu"), self.load_id_embedder(), self.catalogue, rows)
        difference = float(np.abs(made - self.index.reconstruct(rows)).max())
        if difference > PROBE_TOLERANCE:
            raise ReleaseError(
                f"{INDEX_FILE}: stored vectors differ from the model's by {difference:.3f}, expected at most "
                f"{PROBE_TOLERANCE}; the index belongs to another model"
            )

    @cached_property
    def catalogue(self) -> ItemCatalogue:
        self._verified(CATALOGUE_FILE)
        return ItemCatalogue.open(self.folder)

    @cached_property
    def index(self) -> ItemIndex:
        return ItemIndex.read(self._verified(INDEX_FILE), nprobe=self.manifest.generation.nprobe)

    def load_model(self, device: torch.device | str) -> SequenceModel:
        """The model in evaluation mode, without ID tables: those are the ID embedder's. In FP16 on a GPU."""
        path = self._verified(MODEL_FILE)
        with safetensors.safe_open(path, "pt") as file:
            self._check_space(MODEL_FILE, (file.metadata() or {}).get(SPACE_KEY))
        with torch.device("meta"):
            model = generative_model(self.manifest.model)
        weights = safetensors.torch.load_file(path)
        del model.id_embedding
        model.load_state_dict(weights, strict=True, assign=True)
        device = torch_device(device)
        return model.to(device, torch.float16 if device.type == "cuda" else torch.float32).eval()

    def load_id_embedder(self) -> torch.jit.ScriptModule:
        extra = {SPACE_KEY: ""}
        module = torch.jit.load(str(self._verified(ID_EMBEDDER_FILE)), map_location="cpu", _extra_files=extra)
        space = extra[SPACE_KEY]
        self._check_space(ID_EMBEDDER_FILE, space.decode() if isinstance(space, bytes) else space)
        return module.eval()

    def _verified(self, name: str) -> Path:
        path = self.folder / name
        expected = self.manifest.files[name]["sha256"]
        got = sha256(path)
        if got != expected:
            raise ReleaseError(
                f"{path}: sha256 {got[:12]}…, expected {expected[:12]}…; the file was changed or damaged"
            )
        return path

    def _check_space(self, part: str, space: str | None) -> None:
        if space != self.manifest.embedding_space:
            raise ReleaseError(
                f"{self.folder / part}: embedding space {space!r}, expected {self.manifest.embedding_space!r}; "
                "it belongs to another release"
            )


@torch.inference_mode()
def represent_catalogue(
    model: SequenceModel,
    id_embedder: torch.nn.Module,
    catalogue: ItemCatalogue,
    rows: np.ndarray | None = None,
    chunk: int = 16384,
) -> np.ndarray:
    """Item representations of catalogue rows (all by default), float32 ``[V, D]``, made as serving makes history's:
    the ID embedding passes through FP16. In chunks: memory beyond the result is bounded."""
    rows = np.arange(len(catalogue)) if rows is None else rows
    device = model.start_token.device
    made = np.empty((len(rows), model.config.item_width), np.float32)
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        feature, scale = torch.from_numpy(catalogue.feature[part]), torch.from_numpy(catalogue.scale[part])
        id_embedding = (
            id_embedder(torch.from_numpy(catalogue.item_key[part])).half().to(device, model.start_token.dtype)
        )
        pins = model.represent_pins(feature.to(device), scale.to(device), id_embedding)
        made[start : start + chunk] = pins.float().cpu().numpy()  # the index lives on the host
    return made


def embedding_space_of(model: SequenceModel, feature_space: str) -> str:
    """Identity of the item space: a digest of everything that maps an item to its vector."""
    digest = hashlib.sha256(feature_space.encode())
    for prefix in ("id_embedding", "pin_embedder", "query_embedder"):
        for name, weight in sorted(getattr(model, prefix).state_dict().items()):
            digest.update(f"{prefix}.{name}{tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def current_release(releases: Path) -> Path:
    """The folder that ``releases/current`` names. Raises ``ReleaseError`` when there is none."""
    pointer = Path(releases) / CURRENT_FILE
    if not pointer.is_file():
        raise ReleaseError(f"{pointer}: expected the id of a release; publish one with `pinrec release`")
    release_id = pointer.read_text("utf-8", errors="replace").strip()
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", release_id):
        raise ReleaseError(f"{pointer}: {release_id!r} is not a release id")
    return Path(releases) / release_id


def point_current(releases: Path, release_id: str) -> None:
    """Make ``release_id`` the current release, by rename."""
    pointer = Path(releases) / CURRENT_FILE
    beside = pointer.with_name(f".{CURRENT_FILE}.{os.getpid()}")
    beside.write_text(release_id + "\n", "utf-8")
    beside.rename(pointer)


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
