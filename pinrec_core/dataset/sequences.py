"""Reads the sequences that the Spark job wrote, in bounded memory. Training and the serving view use it.

A folder of sequences holds ``part-*.parquet`` files, with one row per user (``user_id`` and a list for each field of
``History``), and ``batch.json`` (``BatchInfo``). This module knows the layout, but not how the files were written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pinrec_core.dataset.batch_info import NO_SEQUENCES
from pinrec_core.errors import DataError
from pinrec_core.history import DTYPES, History

SEQUENCE_COLUMNS = ("user_id", *DTYPES)

KeepUser = Callable[[int | str], bool]


def iter_histories(
    sequences: Path, *, keep_user: KeepUser | None = None, batch_users: int = 64
) -> Iterator[tuple[int | str, History]]:
    """The ``user_id`` and the history of every user, file by file.

    At most ``batch_users`` rows are in memory at a time. The arrays are read-only views of Arrow's buffers. An array
    that outlives the loop should be copied: otherwise it keeps all rows of its batch in memory. ``keep_user`` selects
    users without a cost for the others. Raises ``DataError`` for a folder without sequences, for a file that cannot be
    read, and for lists of one row that differ in length.
    """
    # Resolved once: where the path leads through a link, all parts are of the same snapshot, whatever comes meanwhile.
    parts = sorted(Path(sequences).resolve().glob("part-*.parquet"))
    if not parts:
        raise DataError(f"{sequences}: expected part-*.parquet files; {NO_SEQUENCES}")
    for part in parts:
        for batch in _batches(part, batch_users):
            yield from _histories_of(batch, keep_user, part)


def _batches(part: Path, batch_users: int) -> Iterator[pa.RecordBatch]:
    try:
        # pre_buffer would read whole row groups ahead; without it one batch and the open pages bound the memory.
        with pq.ParquetFile(part, pre_buffer=False, buffer_size=1 << 20) as file:
            missing = sorted(set(SEQUENCE_COLUMNS) - set(file.schema_arrow.names))
            if missing:
                raise DataError(f"{part}: columns {missing} are missing: expected {list(SEQUENCE_COLUMNS)}")
            for name in DTYPES:
                _check_type(part, name, file.schema_arrow.field(name).type)
            yield from file.iter_batches(batch_users, columns=list(SEQUENCE_COLUMNS))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{part}: expected a readable parquet file, {error}") from error


def _check_type(part: Path, name: str, got: pa.DataType) -> None:
    """Raises ``DataError`` for values of another kind: ``_numbers`` would read their bits as something else."""
    element = got.value_type if pa.types.is_list(got) else None
    if name == "feature":
        fits, expected = element is not None and pa.types.is_binary(element), "binary"
    else:
        same_kind = pa.types.is_floating if DTYPES[name].kind == "f" else pa.types.is_integer
        fits, expected = element is not None and same_kind(element), f"numbers that fit {DTYPES[name]}"
    if not fits:
        raise DataError(f"{part}: {name} is {got}: expected a list of {expected}")


def _histories_of(batch: pa.RecordBatch, keep_user: KeepUser | None, part: Path) -> Iterator[tuple[int | str, History]]:
    first = batch.column("item_key").offsets.to_numpy()
    columns: dict[str, np.ndarray] = {}
    for name, dtype in DTYPES.items():
        column = batch.column(name)
        if not np.array_equal(column.offsets.to_numpy() - column.offsets[0].as_py(), first - first[0]):
            raise DataError(f"{part}: {name} and item_key differ in length: expected one value per interaction")
        values = column.flatten()
        if values.null_count:
            raise DataError(f"{part}: {name} holds {values.null_count} nulls: expected none")
        columns[name] = _feature_matrix(values, part) if name == "feature" else _numbers(values, dtype)
    for row, user_id in enumerate(batch.column("user_id").to_pylist()):
        if keep_user is None or keep_user(user_id):
            span = slice(first[row] - first[0], first[row + 1] - first[0])
            yield user_id, History(**{name: values[span] for name, values in columns.items()})


def _numbers(values: pa.Array, dtype: np.dtype) -> np.ndarray:
    """The values as ``dtype``, without a copy if the element sizes agree.

    The types may differ in their sign: Spark has no unsigned byte, so item types arrive as int8.
    """
    array = values.to_numpy()
    return array.view(dtype) if array.dtype.itemsize == dtype.itemsize else array.astype(dtype)


def _feature_matrix(values: pa.Array, part: Path) -> np.ndarray:
    """An array of n byte strings → int8 ``[n, F]``, a view of Arrow's buffer."""
    if len(values) == 0:
        return np.empty((0, 0), np.int8)
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
    widths = np.unique(np.diff(offsets))
    if len(widths) != 1:
        raise DataError(f"{part}: features of {widths[:3].tolist()} bytes: expected one width")
    data = np.frombuffer(values.buffers()[2], np.int8)[offsets[0] : offsets[-1]]
    return data.reshape(len(values), int(widths[0]))
