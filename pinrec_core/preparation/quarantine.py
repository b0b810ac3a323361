"""Keeps the rows that cannot be used: in one Parquet file, and as counts by file and reason. No row is lost silently.

``Faults`` collects the faults of one batch, at most one per row. ``QuarantineWriter`` writes faults to disk. Neither
knows what makes a row bad.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FILE_NAME = "quarantine.parquet"
_MAX_VALUE = 200  # characters of an offending value that are kept


class Reason(StrEnum):
    """Why a row was set aside."""

    MALFORMED_ROW = "malformed_row"  # a CSV record with too few or too many cells
    INVALID_UTF8 = "invalid_utf8"
    MISSING_VALUE = "missing_value"
    NON_FINITE = "non_finite"
    WRONG_TYPE = "wrong_type"
    OUT_OF_RANGE = "out_of_range"  # an id beyond int64
    ID_TOO_LONG = "id_too_long"  # a string id of more bytes than the real-time store takes
    UNKNOWN_ACTION = "unknown_action"
    TIME_OUT_OF_RANGE = "time_out_of_range"
    UNKNOWN_ITEM = "unknown_item"  # not in the items file
    ITEM_TYPE_MISMATCH = "item_type_mismatch"  # an outcome on a query, or a query action on a pin
    MISSING_QUERY_TEXT = "missing_query_text"
    DUPLICATE_EVENT = "duplicate_event"
    DUPLICATE_ITEM = "duplicate_item"
    VECTOR_WIDTH = "vector_width"


SCHEMA = pa.schema(
    {"file": pa.string(), "row": pa.int64(), "reason": pa.string(), "field": pa.string(), "value": pa.string()}
)
"""``row`` counts the records of a file from 0, a header excluded; ``value`` is the offending value as text."""


class Faults:
    """The faults of the n rows of one batch. A row keeps the first fault that it is marked with."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows  # int64 [n]: row numbers within the file
        self.ok = np.ones(len(rows), bool)
        self._parts: list[pa.Table] = []

    def mark(self, bad: np.ndarray, reason: Reason, field: str, values: pa.Array | list[str]) -> None:
        """Mark the rows where ``bad`` (bool ``[n]``) is true. ``values`` has one entry per row of the batch."""
        at = np.flatnonzero(bad & self.ok)
        if not len(at):
            return
        self.ok[at] = False
        offending = values.take(pa.array(at)) if isinstance(values, pa.Array) else [values[i] for i in at]
        self._parts.append(
            pa.table(
                {
                    "row": self._rows[at],
                    "reason": pa.repeat(pa.scalar(str(reason)), len(at)),
                    "field": pa.repeat(pa.scalar(field), len(at)),
                    "value": _as_text(offending),
                }
            )
        )

    def adopt(self, other: Faults, *, except_where: np.ndarray) -> None:
        """Take over the faults of ``other``, whose rows are the positions 0 … n − 1 of this batch."""
        for fault in other._parts:
            position = fault["row"].to_numpy()
            keep = self.ok[position] & ~except_where[position]
            self.ok[position[keep]] = False
            kept = fault.filter(pa.array(keep))
            self._parts.append(kept.set_column(0, "row", pa.array(self._rows[position[keep]])))

    def table(self) -> pa.Table | None:
        """The row, reason, field and value of every marked row; None when all rows are good."""
        return pa.concat_tables(self._parts).sort_by("row") if self._parts else None


@dataclass(frozen=True, slots=True)
class Example:
    """The first row of a file that was set aside for a reason."""

    row: int
    field: str
    value: str | None


class QuarantineWriter:
    """Writes faults to ``quarantine.parquet``. The keys of ``counts`` and ``examples`` are (file, reason)."""

    def __init__(self, folder: Path) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], Example] = {}
        self._writer = pq.ParquetWriter(Path(folder) / FILE_NAME, SCHEMA)

    def add(self, file: str, faults: pa.Table | None) -> int:
        """Write faults of one file (row, reason, field, value). Returns their number."""
        if faults is None or faults.num_rows == 0:
            return 0
        for entry in pc.value_counts(faults["reason"]).to_pylist():
            key = (file, entry["values"])
            self.counts[key] += entry["counts"]
            if key not in self.examples:
                first = faults.slice(pc.index(faults["reason"], entry["values"]).as_py(), 1).to_pylist()[0]
                self.examples[key] = Example(first["row"], first["field"], first["value"])
        named = faults.add_column(0, "file", pa.repeat(pa.scalar(file), faults.num_rows))
        self._writer.write_table(named.select(SCHEMA.names).cast(SCHEMA))
        return faults.num_rows

    def __enter__(self) -> QuarantineWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def _as_text(values: pa.Array | list[str]) -> pa.Array:
    """The values as text of bounded length. Replacement characters stand for bytes that are not UTF-8."""
    if isinstance(values, list):
        return pa.array([v[:_MAX_VALUE] for v in values], pa.string())
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        return pa.array([None if v is None else v.decode("utf-8", "replace")[:_MAX_VALUE] for v in values.to_pylist()],
                        pa.string())  # fmt: skip
    if pa.types.is_nested(values.type):
        return pa.array([None if v is None else str(v)[:_MAX_VALUE] for v in values.to_pylist()], pa.string())
    return pc.utf8_slice_codeunits(values.cast(pa.string()), 0, _MAX_VALUE)
