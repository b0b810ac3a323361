"""JSON lines in a file, one record a line, plain or compressed with gzip. The file may grow while it is read.

Offsets are bytes, of the content where the file is compressed.
"""

from __future__ import annotations

import gzip
import os
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, cast

from event_stream.checkpoint import HEAD_BYTES, checkpoint_of, read_checkpoint, write_checkpoint
from event_stream.source import LONGEST_RECORD, Batch, Position, Record
from pinrec_core.errors import DataError

BATCH_BYTES = 1 << 20
"""A batch ends when its records have so many bytes, so that memory stays bounded where records are long."""

KEPT_OF_LONG = 256
"""Bytes that are kept of a record that is too long."""


class JsonLinesSource:
    """An ``EventSource``. With ``follow`` it waits for more at the end of the file, as ``tail -F`` does.

    A line without an end is the last record of a file that does not grow; with ``follow`` it is one that is still being
    written. A file that another one replaces under its name (rotation of logs) is read to its end first.
    Raises ``DataError`` for a file that cannot be read or does not fit ``checkpoint``.
    """

    def __init__(self, path: Path, checkpoint: Path, *, follow: bool = False) -> None:
        self._path = path
        self._checkpoint = checkpoint
        self._follow = follow
        self._packed = path.suffix == ".gz"
        if follow and self._packed:
            raise DataError(f"{path}: expected a file that is not compressed, only such a one can be followed")
        self._generation = 0  # how many files have had the name before
        self._heads: dict[int, bytes] = {}  # of those that are closed
        self._file = self._opened()
        try:
            self._offset = read_checkpoint(checkpoint, path)
            if self._reaches() < self._offset:
                raise DataError(
                    f"{path}: expected at least the {self._offset:,} bytes that were read before; remove {checkpoint} "
                    "to read it from its beginning"
                )
            self._file.seek(self._offset)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """The bytes of the file now, of the packed file where it is compressed."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def place(self) -> int:
        """The bytes of the file that have been read, in the measure of ``size``."""
        if self._packed:
            return cast(gzip.GzipFile, self._file).fileobj.tell()  # type: ignore[union-attr]
        return self._offset

    def poll(self, limit: int, seconds: float) -> Batch | None:
        records: list[Record] = []
        start = self._offset
        try:
            while len(records) < limit and self._offset - start < BATCH_BYTES:
                if not self._read_line(records):
                    break
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{self._path}: damaged after {self._offset:,} bytes of content ({error})") from error
        if self._offset > start:
            return Batch(records=records, position={self._generation: self._offset})
        if not self._follow:
            return None
        if not self._replaced():
            time.sleep(seconds)
        elif self._read_line(records, last=True):
            return Batch(records=records, position={self._generation: self._offset})
        else:
            self._turn_over()
        return Batch()

    def commit(self, position: Position) -> None:
        generation = max(cast(Mapping[int, int], position))
        offset = position[generation]
        head = self._heads.get(generation)
        if head is None:
            head = os.pread(self._file.fileno(), HEAD_BYTES, 0)
        if not self._packed:
            head = head[:offset]  # the rest may have been written since, or only in part
        write_checkpoint(self._checkpoint, checkpoint_of(head[:HEAD_BYTES], offset))
        for closed in [one for one in self._heads if one < generation]:
            del self._heads[closed]

    def keep_alive(self) -> None:
        """A file gives nobody up."""

    def on_handover(self, settle: Callable[[], None]) -> None:
        """A file goes to nobody else."""

    def close(self) -> None:
        self._file.close()

    def _opened(self) -> IO[bytes]:
        try:
            if self._packed:
                return cast(IO[bytes], gzip.open(self._path, "rb"))
            return self._path.open("rb")
        except OSError as error:
            raise DataError(f"{self._path}: expected a file of JSON lines ({error.strerror})") from error

    def _reaches(self) -> int:
        """How far the content goes, as far as that matters to the offset."""
        if not self._packed:
            return self.size
        try:
            return self._file.seek(self._offset)  # stops at the end of the content
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{self._path}: expected a file that gzip can read ({error})") from error

    def _read_line(self, records: list[Record], *, last: bool = False) -> bool:
        """Add the next line to ``records``, if it is none of white space. False when there is none, or not all of it.

        ``last`` says that the file will not grow.
        """
        line = self._file.readline(LONGEST_RECORD + 1)
        length = len(line)
        if length > LONGEST_RECORD:
            kept = line[:KEPT_OF_LONG]
            while line and not line.endswith(b"\n"):
                line = self._file.readline(LONGEST_RECORD)
                length += len(line)
        else:
            kept = line
        if not line.endswith(b"\n") and (not length or (self._follow and not last)):
            self._file.seek(self._offset)
            return False
        if not kept.isspace():
            cut_from = length if length > LONGEST_RECORD else None
            records.append(Record(kept, self._path.name, self._offset, cut_from))
        self._offset += length
        return True

    def _replaced(self) -> bool:
        """Whether another file has the name now. Raises ``DataError`` for one that was cut."""
        if self.size < self._offset:
            raise DataError(f"{self._path}: expected a file that only grows, it was cut while it was followed")
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:  # between two files
            return False

    def _turn_over(self) -> None:
        """Go on with the file that has the name now."""
        self._heads[self._generation] = os.pread(self._file.fileno(), HEAD_BYTES, 0)
        self._file.close()
        self._file, self._offset = self._opened(), 0
        self._generation += 1
