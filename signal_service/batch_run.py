"""What a run of the batch job read, and whether a later run may go on from its result.

It is written beside the sequences, as ``run.json``. This module does not know how sequences are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from pydantic import Field

from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import DataError
from pinrec_core.ids import IdKind
from pinrec_core.validation import ListOf, OneOf, load_json, save_json, validated

RUN_NAME = "run.json"
NOTHING_READ = -1
"""The last ordinal of a run that read no event."""


class RebuildNeeded(Exception):  # noqa: N818, it is no failure: the caller makes a full run instead
    """An incremental run cannot tell what a full one would give. The message says why."""


@validated(DataError)
class EventFile:
    """A file of events, by its name within the folder of events."""

    name: str
    size: Annotated[int, Field(ge=0)]  # bytes


@validated(DataError)
class FeatureTable:
    """The content of ``features.parquet``: its number of rows and a digest of them, in their order."""

    rows: Annotated[int, Field(ge=0)]
    digest: str


@validated(DataError)
class BatchRun:
    """The input and the settings of a run."""

    user_id_kind: OneOf[IdKind]
    start_time: int | None
    end_time: int
    max_interactions_per_user: Annotated[int, Field(gt=0)]
    files: ListOf[EventFile]
    last_ordinal: int  # the highest of all events in ``files``, or NOTHING_READ
    features: FeatureTable

    @staticmethod
    def load(sequences: Path) -> BatchRun:
        """Read ``sequences/run.json``. Raises ``DataError`` when it is absent or damaged."""
        return load_json(BatchRun, Path(sequences) / RUN_NAME, error=DataError, what="what a batch has read")

    def save(self, sequences: Path) -> None:
        save_json(self, Path(sequences) / RUN_NAME)


def reason_to_rebuild(
    earlier: BatchRun,
    info: BatchInfo,
    manifest: DatasetManifest,
    *,
    start_time: int | None,
    end_time: int,
    max_interactions_per_user: int,
    files: Sequence[EventFile],
) -> str | None:
    """Why a run with these settings cannot go on from the result of ``earlier``; None when it can.

    ``info`` describes that result. Times only move forward, and files are only added: whatever left the earlier
    result by its window or its cut can then never come back.
    """
    for name in ("outcomes", "surfaces", "feature_space"):
        if getattr(info, name) != getattr(manifest, name):
            return f"{name} of the dataset changed"
    if earlier.user_id_kind != manifest.user_id_kind:
        return "the kind of the user ids changed"
    if earlier.max_interactions_per_user != max_interactions_per_user:
        return f"max_interactions_per_user changed from {earlier.max_interactions_per_user}"
    if end_time < earlier.end_time:
        return f"end_time={end_time} is before that of the previous batch, {earlier.end_time}"
    if earlier.start_time is not None and (start_time is None or start_time < earlier.start_time):
        return f"the window begins before that of the previous batch, {earlier.start_time}"
    gone = set(_plain(earlier.files)) - set(_plain(files))
    if gone:
        return f"event file {min(gone)[0]} was changed or removed"
    return None


def _plain(files: Sequence[EventFile]) -> list[tuple[str, int]]:
    return [(file.name, file.size) for file in files]


def digest_features(path: Path, *, first_rows: int = 0) -> tuple[FeatureTable, str]:
    """The features in a local file, and the digest of their first ``first_rows`` rows.

    The file is read once, in bounded memory. Rows that are appended leave the second digest as it was. Raises
    ``DataError`` for a file that cannot be read.
    """
    digest = xxhash.xxh3_128()
    first = digest.hexdigest() if first_rows == 0 else ""
    rows = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(
                1 << 15, columns=["key", "item_type", "feature", "scale"], use_threads=False
            ):
                split = min(max(first_rows - rows, 0), batch.num_rows)
                for piece in (batch.slice(0, split), batch.slice(split)):
                    _add_rows(digest, piece)
                    rows += piece.num_rows
                    if rows == first_rows:
                        first = digest.hexdigest()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path}: expected a readable table of features, {error}") from error
    return FeatureTable(rows=rows, digest=digest.hexdigest()), first


def _add_rows(digest: xxhash.xxh3_128, rows: pa.RecordBatch) -> None:
    """Add the rows one after another, so that only their content matters and not how they were split into batches."""
    if rows.num_rows == 0:
        return
    feature = rows.column("feature").cast(pa.binary())
    offsets = np.frombuffer(feature.buffers()[1], np.int32)[feature.offset : feature.offset + rows.num_rows + 1]
    data = np.frombuffer(feature.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    widths = np.diff(offsets)
    if len(np.unique(widths)) != 1:
        raise DataError(f"features of {np.unique(widths)[:3].tolist()} bytes: expected one width")
    fixed = np.empty((rows.num_rows, 13 + int(widths[0])), np.uint8)  # one row of bytes for each row of the table
    fixed[:, :8] = rows.column("key").to_numpy().astype("<i8")[:, None].view(np.uint8)
    fixed[:, 8:9] = rows.column("item_type").to_numpy().astype("i1")[:, None].view(np.uint8)
    fixed[:, 9:13] = rows.column("scale").to_numpy().astype("<f4")[:, None].view(np.uint8)
    fixed[:, 13:] = data.reshape(rows.num_rows, -1)
    digest.update(fixed.tobytes())
