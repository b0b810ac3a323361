"""Reads Parquet and CSV files as record batches of the mapped columns, with the row number of every record.

One batch is in memory at a time. The cells of a CSV are left as bytes, so that one that is not UTF-8 costs its row and
not the file. This module does not know what the columns mean.
"""

from __future__ import annotations

from array import array
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pinrec_core.errors import DataError
from pinrec_core.preparation.quarantine import Faults, Reason

BATCH_ROWS = 1 << 17
_CSV_BLOCK_BYTES = 4 << 20
_CSV_BYTES_PER_ROW = 32  # a low guess, so that the number of rows is overestimated rather than underestimated
_DELIMITERS = {".csv": ",", ".tsv": "\t"}

Progress = Callable[[str, int, int], None]
"""Is called with a phase, the number of rows that are done in it, and the number of all, which may be an estimate."""


@dataclass(frozen=True, slots=True)
class RawBatch:
    """Records of one file. ``rows`` holds their numbers within the file, from 0; ``malformed`` the unparsable ones."""

    batch: pa.RecordBatch
    rows: np.ndarray  # int64 [n]
    malformed: pa.Table | None = None  # row, reason, field, value

    @property
    def num_read(self) -> int:
        """The number of records that were read, including malformed ones."""
        return self.batch.num_rows + (self.malformed.num_rows if self.malformed is not None else 0)


def resolve_files(folder: Path, patterns: Sequence[str]) -> dict[str, Path]:
    """The files that the names or globs match, by their path relative to ``folder``. Each pattern's files are sorted.

    Raises ``DataError`` when a pattern matches no file, or one that is neither Parquet nor CSV.
    """
    found: dict[str, Path] = {}
    for pattern in patterns:
        relative = not Path(pattern).is_absolute()
        matches = sorted(p for p in Path(folder).glob(pattern) if p.is_file()) if relative else []
        if not matches:
            raise DataError(f"files={pattern!r}: expected a name or glob of at least one file in {folder}")
        for path in matches:
            if path.suffix != ".parquet" and _csv_suffix(path) is None:
                raise DataError(f"files={path.name!r}: expected .parquet, .csv, .tsv, .csv.gz or .tsv.gz")
            found[path.relative_to(folder).as_posix()] = path
    return found


def estimate_rows(path: Path) -> int:
    """The number of rows: exact for a Parquet file, a high estimate from the size for a CSV file."""
    if path.suffix == ".parquet":
        return _open_parquet(path).metadata.num_rows
    expansion = 5 if path.suffix == ".gz" else 1
    return path.stat().st_size * expansion // _CSV_BYTES_PER_ROW + 1


def read_batches(path: Path, columns: Sequence[str], *, delimiter: str | None = None) -> Iterator[RawBatch]:
    """The named columns of a file, batch by batch. Raises ``DataError`` for a missing column or an unreadable file."""
    batches = _read_parquet(path, columns) if path.suffix == ".parquet" else _read_csv(path, columns, delimiter)
    try:
        yield from batches
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: expected a readable {path.suffix.lstrip('.')} file ({error})") from error


def _read_parquet(path: Path, columns: Sequence[str]) -> Iterator[RawBatch]:
    file = _open_parquet(path)
    _check_columns(path, file.schema_arrow.names, columns)
    start = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(columns), use_threads=False):
        yield RawBatch(batch, np.arange(start, start + batch.num_rows))
        start += batch.num_rows


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: expected a readable parquet file ({error})") from error


def _read_csv(path: Path, columns: Sequence[str], delimiter: str | None) -> Iterator[RawBatch]:
    """Reads a file without malformed records once. After the first malformed one, it goes on in a slower way."""
    delimiter = delimiter or _DELIMITERS[_csv_suffix(path) or ".csv"]
    options = _csv_options(columns, delimiter, encoding="utf8")
    start = 0
    try:
        with pa_csv.open_csv(path, *options) as reader:
            for batch in reader:
                yield RawBatch(batch, np.arange(start, start + batch.num_rows))
                start += batch.num_rows
        return
    except (pa.ArrowInvalid, pa.ArrowKeyError):
        pass  # There is a malformed record or a missing column, or the file is unreadable. The lines below find out.
    header = _csv_header(path, delimiter)
    _check_columns(path, list(header), columns)
    yield from _read_malformed_csv(path, {name: header[name] for name in columns}, delimiter, first=start)


def _read_malformed_csv(path: Path, columns: Mapping[str, str], delimiter: str, *, first: int) -> Iterator[RawBatch]:
    """Sets malformed records aside and gives the well-formed ones from number ``first`` on.

    pyarrow decodes the text of a malformed record before it calls the handler, and gives the file up where the text is
    not UTF-8. Therefore the file is read as Latin-1, in which every byte is a character, and the cells are turned back
    into bytes. ``columns`` maps the name of each column to the name as it reads in Latin-1.
    """
    arrived: deque[tuple[int, str]] = deque()  # pyarrow may parse ahead, in another thread

    def set_aside(record: pa_csv.InvalidRow) -> str:
        text = record.text.encode("latin-1").decode("utf-8", "replace")
        # The parser counts from 1 and includes the header.
        arrived.append((record.number - 2, f"{record.actual_columns} cells, not {record.expected_columns}: {text}"))
        return "skip"

    options = _csv_options(list(columns.values()), delimiter, encoding="latin-1", on_malformed=set_aside)
    malformed = array("q")  # row numbers, ascending
    start = 0  # the number of well-formed records before the batch
    with _without_byte_order_mark(path) as file, pa_csv.open_csv(file, *options) as reader:
        for batch in reader:
            faults = [arrived.popleft() for _ in range(len(arrived))]
            malformed.extend(row for row, _ in faults)
            rows = _row_numbers(start, batch.num_rows, np.array(malformed))
            given = min(max(first - start, 0), batch.num_rows)
            start += batch.num_rows
            cells = [_latin1_to_bytes(cells) for cells in batch.slice(given).columns]
            yield RawBatch(pa.record_batch(cells, names=list(columns)), rows[given:], _malformed_table(faults))
    if arrived:
        none = pa.record_batch([pa.array([], pa.binary())] * len(columns), names=list(columns))
        yield RawBatch(none, np.empty(0, np.int64), _malformed_table(list(arrived)))


def _csv_header(path: Path, delimiter: str) -> dict[str, str]:
    """The names of all columns, each with the name as it reads in Latin-1."""
    options = _csv_options(None, delimiter, encoding="latin-1", on_malformed=lambda _: "skip")
    with _without_byte_order_mark(path) as file, pa_csv.open_csv(file, *options) as reader:
        return {name.encode("latin-1").decode("utf-8", "replace"): name for name in reader.schema.names}


def _csv_options(
    columns: Sequence[str] | None,
    delimiter: str,
    *,
    encoding: str,
    on_malformed: Callable[[pa_csv.InvalidRow], str] | None = None,
) -> tuple[pa_csv.ReadOptions, pa_csv.ParseOptions, pa_csv.ConvertOptions]:
    """Reads ``columns`` (None: all) as bytes. Without ``on_malformed`` a malformed record is an error."""
    return (
        # One thread: with more, the parser does not know the numbers of malformed records.
        pa_csv.ReadOptions(block_size=_CSV_BLOCK_BYTES, use_threads=False, encoding=encoding),
        pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=on_malformed),
        pa_csv.ConvertOptions(
            include_columns=columns, column_types=dict.fromkeys(columns or (), pa.binary()), strings_can_be_null=False
        ),
    )


def _without_byte_order_mark(path: Path) -> pa.NativeFile:
    """The uncompressed bytes of a file behind a byte order mark, which pyarrow skips in UTF-8 only."""
    file = pa.input_stream(path)
    if file.read(len(BOM_UTF8)) == BOM_UTF8:
        return file
    file.close()
    return pa.input_stream(path)


def _latin1_to_bytes(cells: pa.BinaryArray) -> pa.BinaryArray:
    """The bytes that the file has for these cells, which were read as Latin-1 and are held as UTF-8."""
    if not len(cells):
        return cells
    held = np.frombuffer(cells.buffers()[1], np.int32)[cells.offset : cells.offset + len(cells) + 1]
    text = cells.buffers()[2][held[0] : held[-1]].to_pybytes().decode("utf-8")
    if text.isascii():
        return cells
    offsets = np.zeros(len(cells) + 1, np.int32)
    np.cumsum(pc.utf8_length(cells.cast(pa.string())).to_numpy(), out=offsets[1:])
    return pa.BinaryArray.from_buffers(
        pa.binary(), len(cells), [None, pa.py_buffer(offsets), pa.py_buffer(text.encode("latin-1"))]
    )


def _row_numbers(start: int, count: int, malformed: np.ndarray) -> np.ndarray:
    """Row numbers in the file of ``count`` well-formed records from number ``start`` on, given the malformed rows."""
    well_formed_before = malformed - np.arange(len(malformed))
    index = np.arange(start, start + count)
    return index + np.searchsorted(well_formed_before, index, side="right")


def _malformed_table(records: list[tuple[int, str]]) -> pa.Table | None:
    """Faults of malformed records, given their rows and descriptions."""
    faults = Faults(np.array([row for row, _ in records], np.int64))
    faults.mark(np.ones(len(records), bool), Reason.MALFORMED_ROW, "record", [text for _, text in records])
    return faults.table()


def _check_columns(path: Path, present: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in present]
    if missing:
        raise DataError(f"{path}: no column {missing}: expected columns of the mapping among {list(present)}")


def _csv_suffix(path: Path) -> str | None:
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    return suffix if suffix in _DELIMITERS else None
