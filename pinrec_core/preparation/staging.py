"""Streams the log once: checks every batch and splits its valid events by user, on disk.

A partition holds all events of its users. So repeats and duplicates, which can only be found in a user's whole
sequence, are found exactly, in the memory of one partition, whatever the order and the size of the log. A set of 64-bit
hashes of all events would do instead, but it needs at least 8 bytes per event and could take two events for one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pinrec_core.ids import IdKind
from pinrec_core.limits import NAME
from pinrec_core.preparation import columns
from pinrec_core.preparation.quarantine import QuarantineWriter
from pinrec_core.preparation.reader import Progress, estimate_rows, read_batches
from pinrec_core.preparation.validation import CheckedBatch, EventValidator, staged_schema

PARTITION_ROWS = 1 << 19  # the intended number of events per partition, which take some 100 MB in memory
_MAX_PARTITIONS = 512  # files open at once
_TRACKED_SURFACES = 1 << 16  # distinct surfaces that are counted at once; beyond this, the rarer half is forgotten


class PartitionedSpill:
    """Rows on disk, split into numbered partitions that are read back one at a time."""

    def __init__(self, folder: Path, schema: pa.Schema, num_partitions: int) -> None:
        folder.mkdir(parents=True)
        self.num_partitions = num_partitions
        self._paths = [folder / f"{number:05d}.arrow" for number in range(num_partitions)]
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writers = [pa.ipc.new_stream(str(path), schema, options=options) for path in self._paths]

    def append(self, rows: pa.RecordBatch, key: np.ndarray) -> None:
        """Write each row to the partition that its key (int64 ``[n]``) determines."""
        if self.num_partitions == 1:
            self._writers[0].write_batch(rows)
            return
        mixed = key.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing spreads ids that are close
        partition = ((mixed >> np.uint64(32)) % np.uint64(self.num_partitions)).astype(np.int64)
        order = np.argsort(partition, kind="stable")
        grouped = rows.take(pa.array(order))
        bounds = np.searchsorted(partition[order], np.arange(self.num_partitions + 1))
        for number, writer in enumerate(self._writers):
            if bounds[number] < bounds[number + 1]:
                writer.write_batch(grouped.slice(bounds[number], bounds[number + 1] - bounds[number]))

    def close(self) -> None:
        for writer in self._writers:
            writer.close()

    def __enter__(self) -> PartitionedSpill:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def partitions(self) -> Iterator[pa.Table]:
        """Read the partitions one after another. Each file is deleted when it has been read."""
        for path in self._paths:
            with pa.ipc.open_stream(str(path)) as reader:
                table = reader.read_all()
            path.unlink()
            yield table


@dataclass(slots=True)
class SurfaceCounter:
    """Counts surfaces, exactly up to 65,536 distinct ones. Beyond this, the rarer half is forgotten."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, surface: pa.StringArray) -> None:
        for entry in pc.value_counts(surface).to_pylist():
            self.counts[entry["values"]] += entry["counts"]
        if len(self.counts) > _TRACKED_SURFACES:
            self.counts = Counter(dict(self.counts.most_common(_TRACKED_SURFACES // 2)))

    def most_frequent(self, limit: int) -> list[str]:
        """Named surfaces by descending frequency, then name; at most ``limit``, and none whose name is too long."""
        named = [(-count, name) for name, count in self.counts.items() if 0 < len(name.encode()) <= NAME.most]
        return [name for _, name in sorted(named)[:limit]]


class SeenItems:
    """Collects the item ids of pins: the catalogue of a log without an items file. Memory grows with their number."""

    def __init__(self, kind: IdKind) -> None:
        self._kind = kind
        self._ids: dict[int | str, None] = {}

    def add(self, item_id: pa.Array) -> None:
        self._ids.update(dict.fromkeys(item_id.unique().to_pylist()))

    def ids(self) -> pa.Array:
        """The distinct ids in order of appearance, as an int64 or string array."""
        return pa.array(self._ids, pa.int64() if self._kind is IdKind.INT else pa.string())


@dataclass(slots=True, kw_only=True)
class StagedEvents:
    """The valid events of a log, partitioned by user, and the counts that were taken while the log was read."""

    events: PartitionedSpill
    queries: PartitionedSpill  # key and text, partitioned by key; a query may be there once per batch
    surfaces: SurfaceCounter
    seen_items: SeenItems | None
    rows_read: dict[str, int]  # by file
    first_ordinal: dict[str, int]  # of each file
    quarantined: int

    def locate(self, ordinal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The file and the row in it, int64 ``[n]`` each, of ordinals. Files are numbered in the order of reading."""
        starts = np.array(list(self.first_ordinal.values()))
        file = np.searchsorted(starts, ordinal, side="right") - 1
        return file, ordinal - starts[file]


def stage_events(
    files: Mapping[str, Path],
    validator: EventValidator,
    folder: Path,
    quarantine: QuarantineWriter,
    progress: Progress,
) -> StagedEvents:
    """Read and check every event once. In memory are one batch, the counts and, without an items file, the item ids."""
    expected = sum(estimate_rows(path) for path in files.values())
    partitions = min(_MAX_PARTITIONS, -(-expected // PARTITION_ROWS) or 1)
    query_schema = pa.schema({"key": pa.int64(), "text": pa.string()})
    staged = StagedEvents(
        events=PartitionedSpill(folder / "events", staged_schema(validator.user_id_kind), partitions),
        queries=PartitionedSpill(folder / "queries", query_schema, partitions),
        surfaces=SurfaceCounter(),
        seen_items=SeenItems(validator.item_id_kind) if validator.items is None else None,
        rows_read={},
        first_ordinal={},
        quarantined=0,
    )
    total = 0
    with staged.events, staged.queries:
        for name, path in files.items():
            first = total
            staged.first_ordinal[name] = first
            for raw in read_batches(path, validator.spec.events.columns, delimiter=validator.spec.events.delimiter):
                total += raw.num_read
                staged.quarantined += quarantine.add(name, raw.malformed)
                checked = validator.check(raw, file=name, first_ordinal=first)
                staged.quarantined += quarantine.add(name, checked.faults)
                _keep(checked, staged)
                progress("reading events", total, expected)
            staged.rows_read[name] = total - first
    progress("reading events", total, total)
    return staged


def _keep(checked: CheckedBatch, staged: StagedEvents) -> None:
    staged.events.append(checked.events, checked.user_key)
    staged.surfaces.add(checked.events.column("surface"))
    is_query = pc.equal(checked.events.column("item_type"), 1)
    if staged.seen_items is not None:
        staged.seen_items.add(checked.item_id.filter(pc.invert(is_query)))
    texts = checked.query_text.filter(is_query).unique()
    if len(texts):
        keys = columns.text_keys(texts)
        staged.queries.append(pa.record_batch([pa.array(keys), texts], names=["key", "text"]), keys)
