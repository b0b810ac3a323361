"""Parquet and CSV files as record batches of the mapped columns, with the row number of every record.

Memory is one batch. Text of a CSV arrives undecoded (binary), so that one bad cell costs its row and not the file.
Knows nothing of what the columns mean.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pinrec_core.errors import DataError
from pinrec_core.preparation.quarantine import Faults, Reason

BATCH_ROWS = 1 << 17
_CSV_BLOCK_BYTES = 4 << 20
_CSV_BYTES_PER_ROW = 32  # a low guess, so that the number of rows is rather over- than underestimated
_DELIMITERS = {".csv": ",", ".tsv": "\t"}

Progress = Callable[[str, int, int], None]
"""Called with a phase, the rows of it that are done, and how many there are, which may be an estimate."""


@dataclass(frozen=True, slots=True)
class RawBatch:
    """Records of one file. ``rows`` are their numbers within it, from 0; ``malformed`` holds unparsable records."""

    batch: pa.RecordBatch
    rows: np.ndarray  # int64 [n]
    malformed: pa.Table | None = None  # row, reason, field, value

    @property
    def num_read(self) -> int:
        """Records read, the malformed ones included."""
        return self.batch.num_rows + (self.malformed.num_rows if self.malformed is not None else 0)


def resolve_files(folder: Path, patterns: Sequence[str]) -> dict[str, Path]:
    """Files that the names or globs match, by their path relative to ``folder``, sorted within each pattern.

    Raises ``DataError`` when a pattern matches nothing or something else than Parquet and CSV.
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
    """Rows of a Parquet file from its footer; of a CSV, an estimate from its size that errs upwards."""
    if path.suffix == ".parquet":
        return _open_parquet(path).metadata.num_rows
    expansion = 5 if path.suffix == ".gz" else 1
    return path.stat().st_size * expansion // _CSV_BYTES_PER_ROW + 1


def read_batches(path: Path, columns: Sequence[str], *, delimiter: str | None = None) -> Iterator[RawBatch]:
    """The named columns of a file, batch by batch. Raises ``DataError``: no such column, unreadable file."""
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
    delimiter = delimiter or _DELIMITERS[_csv_suffix(path) or ".csv"]
    malformed_rows: list[int] = []
    pending: list[tuple[int, str]] = []

    def set_aside(record: pa_csv.InvalidRow) -> str:
        row = record.number - 2  # the parser counts from 1, header included
        insort(malformed_rows, row)
        pending.append((row, f"{record.actual_columns} cells, not {record.expected_columns}: {record.text}"))
        return "skip"

    # One thread: with more, the parser does not know the numbers of malformed records.
    reading = pa_csv.ReadOptions(block_size=_CSV_BLOCK_BYTES, use_threads=False)
    with pa_csv.open_csv(path, reading, pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True,
                                                           invalid_row_handler=lambda _: "skip")) as head:  # fmt: skip
        _check_columns(path, head.schema.names, columns)
    none = pa.record_batch([pa.array([], pa.binary())] * len(columns), names=list(columns))
    parsing = pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=set_aside)
    converting = pa_csv.ConvertOptions(
        include_columns=list(columns), column_types=dict.fromkeys(columns, pa.binary()), strings_can_be_null=False
    )
    start = 0  # of well-formed records
    with pa_csv.open_csv(path, reading, parsing, converting) as reader:
        for batch in reader:
            rows = _row_numbers(start, batch.num_rows, np.array(malformed_rows, np.int64))
            yield RawBatch(batch, rows, _malformed_table(pending))
            pending.clear()
            start += batch.num_rows
    if pending:
        yield RawBatch(none, np.empty(0, np.int64), _malformed_table(pending))


def _row_numbers(start: int, count: int, malformed: np.ndarray) -> np.ndarray:
    """Row numbers in the file of the well-formed records ``start`` … ``start + count``, given the malformed rows."""
    well_formed_before = malformed - np.arange(len(malformed))
    index = np.arange(start, start + count)
    return index + np.searchsorted(well_formed_before, index, side="right")


def _malformed_table(pending: list[tuple[int, str]]) -> pa.Table | None:
    faults = Faults(np.array([row for row, _ in pending], np.int64))
    faults.mark(np.ones(len(pending), bool), Reason.MALFORMED_ROW, "record", [text for _, text in pending])
    return faults.table()


def _check_columns(path: Path, present: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in present]
    if missing:
        raise DataError(f"{path}: no column {missing}: expected columns of the mapping among {list(present)}")


def _csv_suffix(path: Path) -> str | None:
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    return suffix if suffix in _DELIMITERS else None
