"""Rows of a parquet file, one event a row. Offsets are numbers of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from event_stream.checkpoint import HEAD_BYTES, checkpoint_of, read_checkpoint, write_checkpoint
from event_stream.source import Batch, Position, Record
from pinrec_core.errors import DataError


class ParquetSource:
    """An ``EventSource``. A column that an event does not need is not read. ``columns`` are those that may be there.

    Raises ``DataError`` for a file that cannot be read or does not fit ``checkpoint``.
    """

    def __init__(self, path: Path, checkpoint: Path, *, columns: frozenset[str]) -> None:
        self._path = path
        self._checkpoint = checkpoint
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: expected a parquet file ({error})") from error
        self._columns = [name for name in self._file.schema_arrow.names if name in columns]
        self.size = self._file.metadata.num_rows
        self.place = read_checkpoint(checkpoint, path)
        if self.place > self.size:
            raise DataError(f"{path} has {self.size:,} rows: expected at least the {self.place:,} that were read")
        self._batches: Iterator[list[dict[str, Any]]] | None = None

    def poll(self, limit: int, seconds: float) -> Batch | None:
        if self._batches is None:  # the size of the batches is that of the first call
            self._batches = self._from(self.place, limit)
        try:
            rows = next(self._batches, None)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self._path}: damaged after {self.place:,} rows ({error})") from error
        if rows is None:
            return None
        records = [Record(row, self._path.name, number) for number, row in enumerate(rows, self.place)]
        self.place += len(rows)
        return Batch(records=records, position={self._path: self.place})

    def commit(self, position: Position) -> None:
        # The end of the file holds its description, and the beginning a part of its content.
        with self._path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        write_checkpoint(self._checkpoint, checkpoint_of(head, position[self._path]))

    def keep_alive(self) -> None:
        """A file gives nobody up."""

    def on_handover(self, settle: Callable[[], None]) -> None:
        """A file goes to nobody else."""

    def close(self) -> None:
        self._file.close()

    def _from(self, start: int, limit: int) -> Iterator[list[dict[str, Any]]]:
        """The rows from ``start`` on; groups of rows that lie before it are not read."""
        before = 0
        for group in range(self._file.metadata.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            skip = max(start - before, 0)
            before += rows
            if skip >= rows:
                continue
            for batch in self._file.iter_batches(limit, row_groups=[group], columns=self._columns):
                wanted = batch.slice(min(skip, batch.num_rows))
                skip -= batch.num_rows - wanted.num_rows
                if wanted.num_rows:
                    yield wanted.to_pylist()
