"""The manifest of a release: what the release is, how it was made, and the parts that it is made of.

Nothing here opens a part. Importing this module and checking all files of a release costs no memory to speak of: it
needs no torch, no Faiss and no Arrow. The process that starts the stages uses it so.
"""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import Field

from pinrec_core.config.sections import GenerationConfig, ModelConfig
from pinrec_core.dataset.manifest import CATALOGUE_NAME, DatasetManifest
from pinrec_core.errors import ReleaseError
from pinrec_core.validation import check, from_plain, read_json, validated

FORMAT = 5
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
OF_CATALOGUE = (CATALOGUE, INDEX, VECTORS)
"""The parts that another catalogue changes. All others a release of a newer catalogue takes over."""

FIGURES = ("served_recall", "ndcg")
"""The figures by which releases are compared: of protocols with held-out users, and of those with left-out items."""

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
    extends: str | None = None
    """The release whose model, ID tables and thresholds these are, where only catalogue and index were made anew."""

    def __post_init__(self) -> None:
        missing = [name for name in FILES if name not in self.parts]
        check(not missing, "parts", sorted(self.parts), f"{missing} as well")
        check(_is_moment(self.created_at), "created_at", self.created_at, "a time such as 2026-01-31T12:00:00+00:00")
        for name in (MODEL, ID_EMBEDDER, INDEX, VECTORS):
            space = self.parts[name].space
            check(space == self.embedding_space, f"parts.{name}.space", space,
                  f"{self.embedding_space!r}, the release's embedding space")  # fmt: skip

    @property
    def headline(self) -> tuple[str, float] | None:
        """The figure by which releases are compared, with its name; None where the release was not judged."""
        return next(((name, self.metrics[name]) for name in FIGURES if name in self.metrics), None)

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


def _is_moment(text: str) -> bool:
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def open_manifest(folder: Path) -> ReleaseManifest:
    """The manifest of a release whose parts are all there, in the right size.

    Raises ``ReleaseError`` for a missing or unreadable manifest, or a part that is absent or of another size.
    """
    folder = Path(folder)
    if not (folder / MANIFEST_FILE).is_file():
        raise ReleaseError(f"{folder}: not a release, {MANIFEST_FILE} is missing")
    manifest = ReleaseManifest.load(folder)
    for part in manifest.parts.values():
        path = folder / part.file
        size = path.stat().st_size if path.is_file() else None
        if size != part.bytes:
            raise ReleaseError(f"{path}: {size} bytes, expected {part.bytes}")
    return manifest


def verify_files(folder: Path) -> ReleaseManifest:
    """The manifest of a release all of whose files are as they were written: read once, and none is kept.

    That the parts belong together is for ``Release.verify``, which opens them. Raises ``ReleaseError`` as
    ``open_manifest`` does, and for a file that was changed or damaged.
    """
    manifest = open_manifest(folder)
    for part in manifest.parts.values():
        check_file(Path(folder) / part.file, part)
    return manifest


def check_file(path: Path, part: Part) -> None:
    """Raises ``ReleaseError`` where the file is not the one that ``part`` describes."""
    got = sha256(path)
    if got != part.sha256:
        raise ReleaseError(f"{path}: sha256 {got[:12]}…, expected {part.sha256[:12]}…; the file was changed or damaged")


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
