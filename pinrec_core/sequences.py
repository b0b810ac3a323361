"""The sequences that the Spark job writes, read back in bounded memory. Training and the serving view read them here.

A sequences folder holds ``part-*.parquet``, one row per user (``user_id`` and one list per field of ``History``), and
``batch.json`` (``BatchInfo``). This module knows the layout, not who wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pinrec_core.errors import DataError
from pinrec_core.history import DTYPES, NO_OUTCOME, History

BATCH_INFO_NAME = "batch.json"
SEQUENCE_COLUMNS = ("user_id", *DTYPES)
NO_SEQUENCES = "run `pinrec prepare` without --skip-signals"

VALIDATION_SHARE = 0.25
_HELD_OUT, _VALIDATION, _SAMPLE = 1, 2, 3  # hash seeds, one per question
KeepUser = Callable[[int | str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchInfo:
    """What one run of the Spark job covered. Events from ``end_time`` (exclusive, Unix seconds) on are not in it."""

    end_time: int
    feature_space: str
    outcomes: tuple[str, ...]
    surfaces: tuple[str, ...]
    num_users: int
    num_interactions: int

    def __post_init__(self) -> None:
        for name in ("outcomes", "surfaces"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("end_time", "num_users", "num_interactions"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise DataError(f"{name}={value!r}: expected an integer")
        for name in ("num_users", "num_interactions"):
            if getattr(self, name) < 0:
                raise DataError(f"{name}={getattr(self, name)}: expected a value of at least 0")

    @staticmethod
    def load(folder: Path) -> BatchInfo:
        """Read ``folder/batch.json``. Raises ``DataError`` when it is absent, damaged or has other keys."""
        path = Path(folder) / BATCH_INFO_NAME
        if not path.is_file():
            raise DataError(f"{path}: expected the description of a batch; {NO_SEQUENCES}")
        try:
            raw = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise DataError(f"{path}: expected JSON, {error}") from error
        known = {f.name for f in fields(BatchInfo)}
        if not isinstance(raw, dict) or set(raw) != known:
            raise DataError(f"{path}: expected exactly the keys {sorted(known)}")
        return BatchInfo(**raw)

    def save(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (Path(folder) / BATCH_INFO_NAME).write_text(text + "\n", "utf-8")


def is_batch(folder: Path) -> bool:
    """Whether a folder holds a batch (sequences, or the view of them) that a newer one may replace."""
    return (Path(folder) / BATCH_INFO_NAME).is_file()


def is_evaluation_user(user_id: int | str, share: float) -> bool:
    """Whether a user belongs to the held-out ``share`` of users.

    Decided by a hash of the id's text alone: it depends on no other user, and an id falls on the same side whether it
    is written as an integer or as a string.
    """
    return _user_hash(user_id, _HELD_OUT) < share * 2.0**64


def is_validation_user(user_id: int | str) -> bool:
    """Whether a held-out user is one of those that settings are chosen and calibrated on: a quarter of them.

    The others are for the figures, which would flatter what was chosen on them.
    """
    return _user_hash(user_id, _VALIDATION) < VALIDATION_SHARE * 2.0**64


def without_last(history: History, count: int) -> History:
    """A history up to its ``count``-th last interaction with an outcome: those from there on are for evaluation alone.

    Queries do not count, for they are never the item that is left out. With fewer interactions nothing remains.
    """
    if count == 0:
        return history
    target = np.flatnonzero(history.outcome != NO_OUTCOME)
    return history.take(slice(0, int(target[-count]) if len(target) >= count else 0))


def sampling_order(user_id: int | str) -> int:
    """Sorts users as if they were shuffled, the same way each time: the first n of them are a sample of n.

    The first n of a file are none: ids that were given out over time sort early users first.
    """
    return _user_hash(user_id, _SAMPLE)


def _user_hash(user_id: int | str, seed: int) -> int:
    """xxh64 of the id's text; hashes of different seeds are independent."""
    return xxhash.xxh64_intdigest(str(user_id).encode("utf-8"), seed)


def iter_histories(
    sequences: Path, *, keep_user: KeepUser | None = None, batch_users: int = 64
) -> Iterator[tuple[int | str, History]]:
    """Every user's (``user_id``, history), part by part.

    At most ``batch_users`` rows are decoded at a time. The arrays are read-only views of Arrow's buffers: one that is
    kept keeps its whole batch, so copy what has to outlive the loop. ``keep_user`` skips users before anything of
    theirs is touched. Raises ``DataError`` on a folder without sequences or a row whose lists disagree.
    """
    parts = sorted(Path(sequences).glob("part-*.parquet"))
    if not parts:
        raise DataError(f"{sequences}: expected part-*.parquet files; {NO_SEQUENCES}")
    for part in parts:
        for batch in _batches(part, batch_users):
            yield from _histories_of(batch, keep_user, part)


def _batches(part: Path, batch_users: int) -> Iterator[pa.RecordBatch]:
    try:
        # Without pre_buffer, which reads whole row groups ahead: memory is bound by one batch and the open pages.
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
    """Where sizes agree, bits are taken as they are (``_numbers``): another kind of value would become nonsense."""
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
    """Without a copy where the element size agrees: Spark has no unsigned byte, so item types arrive as int8."""
    array = values.to_numpy()
    return array.view(dtype) if array.dtype.itemsize == dtype.itemsize else array.astype(dtype)


def _feature_matrix(values: pa.Array, part: Path) -> np.ndarray:
    """list<binary> → int8 ``[n, F]``, a view of Arrow's data buffer."""
    if len(values) == 0:
        return np.empty((0, 0), np.int8)
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
    widths = np.unique(np.diff(offsets))
    if len(widths) != 1:
        raise DataError(f"{part}: features of {widths[:3].tolist()} bytes: expected one width")
    data = np.frombuffer(values.buffers()[2], np.int8)[offsets[0] : offsets[-1]]
    return data.reshape(len(values), int(widths[0]))
