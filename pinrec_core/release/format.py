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
memory, and one that reads no index and no catalogue neither Faiss nor Arrow. ``manifest`` describes the parts and opens
none.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors

from pinrec_core.errors import ReleaseError
from pinrec_core.files.mapped_tensor import map_tensor
from pinrec_core.release.manifest import (
    CATALOGUE,
    FILES,
    ID_EMBEDDER,
    INDEX,
    MODEL,
    VECTORS,
    ReleaseManifest,
    check_file,
    open_manifest,
)
from pinrec_core.representations.id_tables import SCALE_BYTES, IdTables, RowFormat

if TYPE_CHECKING:
    import torch

    from pinrec_core.dataset.catalogue import ItemCatalogue
    from pinrec_core.model.sequence_model import SequenceModel
    from pinrec_core.retrieval.item_index import ItemIndex

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


class Release:
    """A view of one release folder. A part is checked when it is first read, by whoever reads it."""

    def __init__(self, folder: Path, manifest: ReleaseManifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @staticmethod
    def open(folder: Path) -> Release:
        """Raises ``ReleaseError`` for a missing or unreadable manifest, or a part that is absent or of another size."""
        return Release(Path(folder), open_manifest(folder))

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
