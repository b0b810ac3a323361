"""How far a file has been read, in a small file that is replaced as a whole. It knows no format of events."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated

from pydantic import Field

from event_stream.source import NotCommittedError
from pinrec_core.errors import DataError
from pinrec_core.validation import load_json, save_json, validated

HEAD_BYTES = 1024
"""Bytes at the beginning of a file by which it is known again, whatever its name and place."""


@validated(DataError)
class Checkpoint:
    """``offset`` is where to go on. The first ``head_bytes`` of the file have the digest ``head_sha256``."""

    offset: Annotated[int, Field(ge=0)]
    head_bytes: Annotated[int, Field(ge=0)]
    head_sha256: str


def checkpoint_of(head: bytes, offset: int) -> Checkpoint:
    """The checkpoint of a file that begins with ``head``."""
    return Checkpoint(offset=offset, head_bytes=len(head), head_sha256=hashlib.sha256(head).hexdigest())


def read_checkpoint(path: Path, source: Path) -> int:
    """The offset to go on with in the file ``source``: 0 without a checkpoint.

    Raises ``DataError`` for a checkpoint that is damaged or belongs to another file.
    """
    if not path.exists():
        return 0
    checkpoint = load_json(Checkpoint, path, error=DataError, what="a checkpoint of `pinrec ingest`")
    with source.open("rb") as file:
        head = file.read(checkpoint.head_bytes)
    if hashlib.sha256(head).hexdigest() != checkpoint.head_sha256:
        raise DataError(
            f"{path}: expected the checkpoint of {source}, but that file begins with other content than when it was "
            "read; remove the checkpoint to read it from its beginning"
        )
    return checkpoint.offset


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Put a checkpoint on the disk in place of the one before. Raises ``NotCommittedError``."""
    beside = path.with_name(f".{path.name}.new")
    try:
        save_json(checkpoint, beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())  # else an empty file could have the name after a power cut
        beside.replace(path)
    except OSError as error:
        raise NotCommittedError(f"{path}: the checkpoint cannot be written ({error.strerror})") from error
