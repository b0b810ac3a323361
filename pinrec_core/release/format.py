"""The format of a release: one immutable, versioned folder with everything that serving needs.

::

    releases/
      current                      text: the release id that serves
      20260101T120000-1a2b3c4d/
        manifest.json              identity, configuration, vocabularies, and the parts
        model.safetensors          part "model": embedders, decoder, head
        id_embedder.safetensors    part "id_embedder": ID tables as packed rows in FP16 or INT8, for the CPU
        index.faiss                part "index": search over the item vectors; row = catalogue row
        item_vectors.npy           part "item_vectors": the same vectors by row, for what was found
        catalogue.arrow            part "catalogue": ids, titles, INT8 features

A release is made of named parts. Five of them every release has; further ones are optional, and a reader leaves alone
those whose names it does not know, so that a part can join without another format. The manifest says of each part in
which file it is, its checksum, and the space that its vectors belong to: parts of different spaces do not fit together.

A release is written beside its place and renamed into it, so a folder with a valid name is whole. A part is checked
against its checksum when it is first read; only ID tables that are opened with ``checked=False`` are not.
``Release.verify`` checks the whole: that the index holds what this model makes of these items, even where checksums
were made to agree.

Each part imports what it needs when it is read: a process that reads no model has no torch, which would be most of its
memory, and one that reads no index and no catalogue neither Faiss nor Arrow.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import safetensors
from pydantic import Field

from pinrec_core.config.sections import GenerationConfig, ModelConfig
from pinrec_core.dataset.manifest import CATALOGUE_NAME, DatasetManifest
from pinrec_core.errors import ReleaseError
from pinrec_core.files.mapped_tensor import map_tensor
from pinrec_core.representations.id_tables import SCALE_BYTES, IdTables, RowFormat
from pinrec_core.validation import check, from_plain, read_json, validated

if TYPE_CHECKING:
    import torch

    from pinrec_core.dataset.catalogue import ItemCatalogue
    from pinrec_core.model.sequence_model import SequenceModel
    from pinrec_core.retrieval.item_index import ItemIndex

FORMAT = 4
MANIFEST_FILE = "manifest.json"

MODEL, ID_EMBEDDER, INDEX, VECTORS, CATALOGUE = "model", "id_embedder", "index", "item_vectors", "catalogue"
FILES = {
    MODEL: "model.safetensors",
    ID_EMBEDDER: "id_embedder.safetensors",
    INDEX: "index.faiss",
    VECTORS: "item_vectors.npy",
    CATALOGUE: CATALOGUE_NAME,
}
"""The parts that every release has, and the files they are in."""

SPACE_KEY = "embedding_space"
"""Model and ID embedder carry the space inside their files too, where a changed manifest does not reach."""
ID_ROWS = "rows"
"""The tensor in the file of the ID embedder. Its element type says in which format the rows are."""
ID_TABLE_PREFIX = "id_embedding."
"""Weights under this prefix travel in the ID embedder, not in ``model.safetensors``."""

PROBES = 16
PROBE_TOLERANCE = 2e-2
"""Largest difference between a stored vector and one made now: serving passes the ID embedding on in FP16 (2^-11
relative), which the embedder's LayerNorm can amplify for small table rows; two different models differ by about 1."""

Number = Annotated[int, Field(ge=0)]


@validated(ReleaseError)
class Part:
    """One file of a release."""

    file: str  # relative to the release's folder
    bytes: Number
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    space: str | None = None  # what its vectors may be compared with; None for a part without vectors
    attributes: dict[str, str] = Field(default_factory=dict)
    """What else decides whether a reader can use an optional part, such as the processor of compiled programs."""

    def __post_init__(self) -> None:
        path = PurePosixPath(self.file)
        inside = self.file != "" and not path.is_absolute() and ".." not in path.parts
        check(inside, "file", self.file, "a path within the release")

    @staticmethod
    def of(folder: Path, file: str, *, space: str | None = None, attributes: dict[str, str] | None = None) -> Part:
        """The part that lies in ``folder / file``."""
        path = folder / file
        return Part(
            file=file, bytes=path.stat().st_size, sha256=sha256(path), space=space, attributes=attributes or {}
        )  # fmt: skip


@validated(ReleaseError)
class HeldOut:
    """What training kept out of its dataset: a release must not be judged on anything else."""

    evaluation_share: Annotated[float, Field(ge=0, lt=1)]  # of the users, by hash
    held_out_last: Number  # interactions at the end of every user's history


@validated(ReleaseError)
class CalibratedOn:
    """The users on whom a calibration was made."""

    protocol: str
    users: Number
    targets_per_user: Number
    unseen: bool  # whether training had not seen the targets


@validated(ReleaseError)
class Calibration:
    """How the index and the thresholds of ``GenerationConfig`` were chosen, and what they reach."""

    index_type: str  # FLAT, which is exact, or IVF_HNSW
    nlist: Number
    nprobe: Number
    recall_depth: Number  # as deep as requests look
    recall_target: float
    recall: float  # of generated queries at that depth, against exact search
    compression_ratio: float  # generated embeddings per kept one
    calibrated_on: CalibratedOn


@validated(ReleaseError)
class ReleaseManifest:
    """What ``manifest.json`` holds."""

    format: int
    release_id: str
    created_at: str
    embedding_space: str  # of the items: what model, ID embedder and index share
    model: ModelConfig
    generation: GenerationConfig
    dataset: DatasetManifest
    calibration: Calibration
    training: HeldOut
    metrics: dict[str, Any]  # offline evaluation of the run
    parts: dict[str, Part]

    def __post_init__(self) -> None:
        missing = [name for name in FILES if name not in self.parts]
        check(not missing, "parts", sorted(self.parts), f"{missing} as well")
        for name in (MODEL, ID_EMBEDDER, INDEX, VECTORS):
            space = self.parts[name].space
            check(space == self.embedding_space, f"parts.{name}.space", space,
                  f"{self.embedding_space!r}, the release's embedding space")  # fmt: skip

    @staticmethod
    def load(folder: Path) -> ReleaseManifest:
        """Raises ``ReleaseError`` for a folder that is no release, or one of another format."""
        path = Path(folder) / MANIFEST_FILE
        raw = read_json(path, error=ReleaseError, what="the manifest of a release")
        found = raw.get("format")
        if found != FORMAT:
            raise ReleaseError(
                f"{path}: format={found!r}: expected {FORMAT}; this version reads no other, so release the run again "
                "with `pinrec release RUN`"
            )
        return from_plain(ReleaseManifest, raw, error=ReleaseError, source=path)


class Release:
    """A view of one release folder. A part is checked when it is first read, by whoever reads it."""

    def __init__(self, folder: Path, manifest: ReleaseManifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @staticmethod
    def open(folder: Path) -> Release:
        """Raises ``ReleaseError`` for a missing or unreadable manifest, or a part that is absent or of another size."""
        folder = Path(folder)
        if not (folder / MANIFEST_FILE).is_file():
            raise ReleaseError(f"{folder}: not a release, {MANIFEST_FILE} is missing")
        manifest = ReleaseManifest.load(folder)
        for part in manifest.parts.values():
            path = folder / part.file
            size = path.stat().st_size if path.is_file() else None
            if size != part.bytes:
                raise ReleaseError(f"{path}: {size} bytes, expected {part.bytes}")
        return Release(folder, manifest)

    def verify(self) -> None:
        """Check every part: checksums, embedding space, and that the index holds what this model makes of the items."""
        from pinrec_core.retrieval.catalogue_vectors import represent_catalogue

        for name in self.manifest.parts:
            self.path(name)
        if len(self.index) != len(self.catalogue):
            raise ReleaseError(
                f"{self._file(INDEX)} holds {len(self.index)} vectors, expected {len(self.catalogue)}, one per item"
            )
        rows = np.linspace(0, len(self.catalogue) - 1, num=min(PROBES, len(self.catalogue)), dtype=np.int64)
        made = represent_catalogue(self.load_model("cpu"), self.load_id_embedder(), self.catalogue, rows)
        difference = float(np.abs(made - self.index.vectors_of(rows)).max())
        if difference > PROBE_TOLERANCE:
            raise ReleaseError(
                f"{self._file(VECTORS)}: stored vectors differ from the model's by {difference:.3f}, expected at most "
                f"{PROBE_TOLERANCE}; they belong to another model"
            )
        if (difference := self.index.disagreement(rows)) > PROBE_TOLERANCE:
            raise ReleaseError(
                f"{self._file(INDEX)}: its scores differ from products with {FILES[VECTORS]} by {difference:.3f}, "
                f"expected at most {PROBE_TOLERANCE}; the index belongs to another release"
            )

    def path(self, name: str) -> Path:
        """The file of a part. Raises ``ReleaseError`` where the release has none of that name, or it was changed."""
        part = self.manifest.parts.get(name)
        if part is None:
            raise ReleaseError(
                f"{self.folder}: part {name!r} is missing, expected one of {sorted(self.manifest.parts)}"
            )
        path = self.folder / part.file
        if name not in self._verified:
            check_file(path, part)
            self._verified.add(name)
        return path

    @cached_property
    def catalogue(self) -> ItemCatalogue:
        from pinrec_core.dataset.catalogue import ItemCatalogue

        return ItemCatalogue.open_file(self.path(CATALOGUE))

    @cached_property
    def index(self) -> ItemIndex:
        from pinrec_core.retrieval.item_index import ItemIndex

        return ItemIndex.read(self.path(INDEX), self.path(VECTORS), nprobe=self.manifest.generation.nprobe)

    def load_model(self, device: torch.device | str, dtype: torch.dtype | None = None) -> SequenceModel:
        """The model in evaluation mode, without ID tables: those are the ID embedder's.

        Without a ``dtype`` it is in FP16 on a GPU and in FP32 elsewhere.
        """
        import safetensors.torch
        import torch

        from pinrec_core.model.device import torch_device
        from pinrec_core.model.variants import generative_model

        path = self.path(MODEL)
        with safetensors.safe_open(path, "pt") as file:
            self._check_space(MODEL, (file.metadata() or {}).get(SPACE_KEY))
        # Random weights first, which are replaced. Not on the device "meta": initialising there imports torch's
        # compiler, 70 MiB for each process. The ID tables, which may be larger than memory, are not made.
        with torch.random.fork_rng(devices=[]):
            model = generative_model(replace(self.manifest.model, id_rows=1))
        model.config = self.manifest.model
        del model.id_embedding
        weights = safetensors.torch.load_file(path)
        model.load_state_dict(weights, strict=True, assign=True)
        device = torch_device(device)
        return model.to(device, dtype or (torch.float16 if device.type == "cuda" else torch.float32)).eval()

    def load_id_embedder(self, *, checked: bool = True) -> IdTables:
        """The ID tables, mapped from their file: processes share them, and a row is read when it is first used.

        With ``checked=False`` their checksum is not compared, for which all of them would have to be read; their size,
        shape and embedding space are. Raises ``ReleaseError`` where they are not those of this release.
        """
        path = self.path(ID_EMBEDDER) if checked else self._file(ID_EMBEDDER)
        try:
            rows, metadata = map_tensor(path, ID_ROWS)
        except (OSError, safetensors.SafetensorError) as error:
            raise ReleaseError(f"{path}: expected the ID tables of a release ({error})") from error
        self._check_space(ID_EMBEDDER, metadata.get(SPACE_KEY))
        config = self.manifest.model
        int8 = rows.dtype == np.uint8
        expected = (
            config.id_hashes * config.id_rows,
            config.id_width // config.id_hashes + (SCALE_BYTES if int8 else 0),
        )
        if rows.dtype not in (np.uint8, np.float16) or rows.shape != expected:
            raise ReleaseError(
                f"{path}: {ID_ROWS} are {rows.dtype}{list(rows.shape)}, expected uint8 or float16{list(expected)}"
            )
        return IdTables(rows, row_format=RowFormat.INT8 if int8 else RowFormat.FP16, hashes=config.id_hashes)

    @cached_property
    def _verified(self) -> set[str]:
        """Names of the parts whose checksum this object has compared: a large index is not read twice for it."""
        return set()

    def _file(self, name: str) -> Path:
        return self.folder / self.manifest.parts[name].file

    def _check_space(self, name: str, space: str | None) -> None:
        if space != self.manifest.embedding_space:
            raise ReleaseError(
                f"{self._file(name)}: embedding space {space!r}, expected {self.manifest.embedding_space!r}; "
                "it belongs to another release"
            )


def embedding_space_of(model: SequenceModel, feature_space: str) -> str:
    """Identity of the item space: a digest of everything that maps an item to its vector."""
    digest = hashlib.sha256(feature_space.encode())
    for prefix, module in model.item_space_modules().items():
        for name, weight in sorted(module.state_dict().items()):
            digest.update(f"{prefix}.{name}{tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def check_file(path: Path, part: Part) -> None:
    """Raises ``ReleaseError`` where the file is not the one that ``part`` describes."""
    got = sha256(path)
    if got != part.sha256:
        raise ReleaseError(f"{path}: sha256 {got[:12]}…, expected {part.sha256[:12]}…; the file was changed or damaged")


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
