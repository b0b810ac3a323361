"""Merges new events into sorted sequences: one pass over both, in bounded memory, without Spark.

Both inputs are folders of sequences in the order of their users. The result is what a full run over all events gives,
and it has the parts of the previous sequences.

A full user's sequence is the newest L of all their events. A late event that is older than all of these can be left
out without looking at the others. Only the time of the oldest one needs care: it may have been cut through the middle
of several events at that time. A late event at that very time may be a repeat of one that was cut. The identities of
those are kept beside each sequence (``cut_item_key``, ``cut_outcome``), and are null where there are more than L.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pinrec_core.errors import DataError
from pinrec_core.history import DTYPES
from pinrec_core.ids import IdKind
from signal_service.batch_run import RebuildNeeded

USERS_AT_ONCE = 256
ROW_GROUP_BYTES = 16 << 20  # the amount that a reader holds at a time
CUT_COLUMNS = ("cut_item_key", "cut_outcome")
STORED_DTYPES = DTYPES | {"item_type": np.dtype(np.int8)}  # Spark has no unsigned byte
_NEVER = np.iinfo(np.int64).min
_NO_BYTES = np.empty(0, np.int8)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeCounts:
    """What became of the previous interactions and the new ones."""

    users: int = 0
    interactions: int = 0
    outside_window: int = 0
    forgotten: int = 0
    repeats: int = 0
    cut: int = 0
    without_content: int = 0

    def plus(self, other: MergeCounts) -> MergeCounts:
        return MergeCounts(**{name: getattr(self, name) + getattr(other, name) for name in MergeCounts.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRules:
    """``limit`` is L, ``start_time`` the start of the window, ``forgotten`` the time by user (Unix seconds)."""

    user_id_kind: IdKind
    feature_width: int
    limit: int
    start_time: int | None
    forgotten: Mapping[int | str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """The sequences of U users in order: n interactions, of which user u has those at ``offsets[u]:offsets[u + 1]``.

    ``cut_offsets`` does the same for the interactions that were cut at the time of the oldest one that is kept.
    ``cut_known[u]`` is False where these are too many to be kept.
    """

    users: np.ndarray  # [U], int64 or str objects
    offsets: np.ndarray  # int64 [U + 1]
    columns: dict[str, np.ndarray]  # by the name of a History's field, [n, ...]
    cut_offsets: np.ndarray  # int64 [U + 1]
    cut_item_key: np.ndarray  # int64
    cut_outcome: np.ndarray  # int16
    cut_known: np.ndarray  # bool [U]

    def __len__(self) -> int:
        return len(self.users)

    def rows(self, start: int, stop: int) -> Sequences:
        """Users ``start:stop``, as views."""
        first, last = self.offsets[start], self.offsets[stop]
        first_cut, last_cut = self.cut_offsets[start], self.cut_offsets[stop]
        return Sequences(
            users=self.users[start:stop],
            offsets=self.offsets[start : stop + 1] - first,
            columns={name: values[first:last] for name, values in self.columns.items()},
            cut_offsets=self.cut_offsets[start : stop + 1] - first_cut,
            cut_item_key=self.cut_item_key[first_cut:last_cut],
            cut_outcome=self.cut_outcome[first_cut:last_cut],
            cut_known=self.cut_known[start:stop],
        )


def merge_sequences(previous: Path, new: Path, out: Path, rules: MergeRules) -> MergeCounts:
    """Write the merged sequences to the folder ``out``, and return what became of all interactions.

    The sequences in ``new`` are of events that the previous run did not use, each event behind all those of the
    previous sequences in the order of the log. They hold the newest L of their user, and all at the time of the oldest
    of these. Raises ``RebuildNeeded`` when the two folders do not tell the result of a full run, and ``DataError`` for
    files that cannot be used.
    """
    parts = sorted(Path(previous).glob("part-*.parquet"))
    if not parts:
        raise DataError(f"{previous}: expected part-*.parquet files")
    schema = _schema(parts[0])
    added = _Cursor(_read(sorted(Path(new).glob("part-*.parquet")), rules, with_cut=False))
    total = MergeCounts()
    firsts = [_first_user(part) for part in parts]
    last = None
    for number, part in enumerate(parts):
        ends = next((first for first in firsts[number + 1 :] if first is not None), None)
        kept = _Cursor(_read([part], rules, with_cut=True))
        with _PartWriter(out / f"part-{number:05d}.parquet", schema, always=number == 0) as writer:
            for old_rows, new_rows in _aligned(kept, added, ends):
                if len(old_rows) and last is not None and old_rows.users[0] <= last:
                    raise DataError(f"{part}: expected users behind those of the part before")
                last = old_rows.users[-1] if len(old_rows) else last
                merged, counts = merge_users(old_rows, new_rows, rules)
                writer.add(merged)
                total = total.plus(counts)
    return total


def merge_users(old: Sequences, new: Sequences, rules: MergeRules) -> tuple[Sequences, MergeCounts]:
    """The sequences of all users of both, and what became of their interactions. See ``merge_sequences``."""
    L = rules.limit
    users = np.union1d(old.users, new.users)
    U = len(users)
    old_user, new_user = np.searchsorted(users, old.users), np.searchsorted(users, new.users)
    if (np.diff(new.offsets) > 2 * L).any():
        raise RebuildNeeded(f"a user has more than {L} new events at one time")

    # Every interaction as (user, time, position): first those that were cut, then the kept ones, then the new ones.
    # The position is their order in the log.
    lengths, cut_lengths = np.diff(old.offsets), np.diff(old.cut_offsets)
    oldest = np.full(U, _NEVER)
    oldest[old_user] = old.columns["timestamp"][old.offsets[:-1]]
    of_cut, of_old = np.repeat(old_user, cut_lengths), np.repeat(old_user, lengths)
    of_new = np.repeat(new_user, np.diff(new.offsets))
    n_cut, n_old = len(of_cut), len(of_old)
    user = np.concatenate([of_cut, of_old, of_new])
    time = np.concatenate([oldest[of_cut], old.columns["timestamp"], new.columns["timestamp"]])
    key = np.concatenate([old.cut_item_key, old.columns["item_key"], new.columns["item_key"]])
    outcome = np.concatenate([old.cut_outcome, old.columns["outcome"], new.columns["outcome"]])

    # Whatever left by the window or was forgotten goes first. It is the older end of a sequence.
    window = _NEVER if rules.start_time is None else rules.start_time
    threshold = np.full(U, window)
    for u, user_id in enumerate(users.tolist() if rules.forgotten else ()):
        threshold[u] = max(window, rules.forgotten.get(user_id, _NEVER) + 1)
    cut_unknown = np.zeros(U, bool)
    cut_unknown[old_user] = ~old.cut_known
    if (cut_unknown[of_new] & (new.columns["timestamp"] == oldest[of_new])).any():
        raise RebuildNeeded(f"an event is at a time at which more than {L} events of its user were cut")
    present = time >= threshold[user]
    left = ~present[n_cut : n_cut + n_old]
    outside = int((old.columns["timestamp"][left] < window).sum())

    touched = np.zeros(U, bool)  # the others keep their sequences as they are
    touched[new_user] = True
    touched[user[~present]] = True
    at = np.flatnonzero(touched[user] & present)
    at = at[np.lexsort((time[at], user[at]))]  # stable: equal times stay in the order of the log
    repeat = _is_repeat(user[at], time[at], key[at], outcome[at])
    at = at[~repeat]
    count = np.bincount(user[at], minlength=U)
    end = np.cumsum(count)
    age = end[user[at]] - np.arange(len(at))  # the newest of each user has age 1
    newest = age <= L
    full = count >= L
    cut_time = np.full(U, _NEVER)
    cut_time[full] = time[at[end[full] - L]]
    tied = at[~newest & (time[at] == cut_time[user[at]])]
    kept = at[newest]
    assert not (kept < n_cut).any(), "an interaction that was cut cannot come back"
    cut = int((at[~newest] >= n_cut).sum())

    unchanged = np.flatnonzero(~touched[of_old]) + n_cut
    source = np.concatenate([unchanged, kept])
    source = source[np.argsort(user[source], kind="stable")]
    same_cut = np.flatnonzero(~touched[of_cut])
    cut_source = np.concatenate([same_cut, tied])
    cut_source = cut_source[np.lexsort((outcome[cut_source], key[cut_source], user[cut_source]))]
    ties = np.bincount(user[cut_source], minlength=U)
    known = (ties <= L) & ~(cut_unknown & (~touched | (cut_time == oldest)))
    cut_source = cut_source[known[user[cut_source]]]

    length = np.bincount(user[source], minlength=U)
    columns = {name: np.concatenate([old.columns[name], new.columns[name]])[source - n_cut] for name in STORED_DTYPES}
    remains = length > 0
    merged = Sequences(
        users=users[remains],
        offsets=_offsets(length[remains]),
        columns=columns,
        cut_offsets=_offsets(np.bincount(user[cut_source], minlength=U)[remains]),
        cut_item_key=key[cut_source],
        cut_outcome=outcome[cut_source],
        cut_known=known[remains],
    )
    counts = MergeCounts(
        users=len(merged),
        interactions=len(source),
        outside_window=outside,
        forgotten=int(left.sum()) - outside,
        repeats=int(repeat.sum()),
        cut=cut,
        without_content=int((columns["scale"][source >= n_cut + n_old] == 0).sum()),
    )
    return merged, counts


def _is_repeat(*ordered: np.ndarray) -> np.ndarray:
    """bool ``[n]``: whether an earlier position has the same values in all of the arrays, which are ``[n]``."""
    n = len(ordered[0])
    order = np.lexsort(ordered)  # stable, so that the earliest of equal ones comes first
    same = np.ones(max(n - 1, 0), bool)
    for values in ordered:
        by_value = values[order]
        same &= by_value[1:] == by_value[:-1]
    repeat = np.zeros(n, bool)
    repeat[order[1:]] = same
    return repeat


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)])


class _Cursor:
    """Sequences in the order of their users, a buffer at a time. Raises ``DataError`` where they are out of order."""

    def __init__(self, source: Iterator[Sequences]) -> None:
        self._source = source
        self.buffer: Sequences = next(source)  # every source begins with an empty one, which has the right types

    def fill(self) -> Sequences:
        """The buffer, which is empty only behind the last user."""
        while not len(self.buffer):
            following = next(self._source, None)
            if following is None:
                break
            self.buffer = following
        return self.buffer

    def take(self, count: int) -> Sequences:
        taken, self.buffer = self.buffer.rows(0, count), self.buffer.rows(count, len(self.buffer))
        return taken


def _aligned(old: _Cursor, new: _Cursor, ends: int | str | None) -> Iterator[tuple[Sequences, Sequences]]:
    """Rows of both for the same range of users, range after range, up to the user ``ends`` of the new ones."""
    while True:
        old_users, new_users = old.fill().users, new.fill().users
        within = len(new_users) if ends is None else int(np.searchsorted(new_users, ends))
        new_users = new_users[:within]
        lasts = [users[-1] for users in (old_users, new_users) if len(users)]
        if not lasts:
            return
        bound = min(lasts)
        yield (
            old.take(int(np.searchsorted(old_users, bound, side="right"))),
            new.take(int(np.searchsorted(new_users, bound, side="right"))),
        )


def _schema(part: Path) -> pa.Schema:
    with _opened(part) as file:
        return file.schema_arrow.remove_metadata()


def _first_user(part: Path) -> int | str | None:
    with _opened(part) as file:
        batch = next(file.iter_batches(1, columns=["user_id"]), None)
        return batch.column(0)[0].as_py() if batch is not None and batch.num_rows else None


@contextmanager
def _opened(part: Path) -> Iterator[pq.ParquetFile]:
    """A file of sequences. Raises ``DataError`` when it cannot be opened, or read within the block."""
    try:
        # pre_buffer would read whole row groups ahead; without it one batch and the open pages bound the memory.
        with pq.ParquetFile(part, pre_buffer=False, buffer_size=1 << 20) as file:
            yield file
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{part}: expected readable sequences, {error}") from error


def _read(parts: list[Path], rules: MergeRules, *, with_cut: bool) -> Iterator[Sequences]:
    """All rows of the files. The first ones given are none, and the files must be in the order of their users."""
    yield _empty(rules)
    names = ["user_id", *STORED_DTYPES, *(CUT_COLUMNS if with_cut else ())]
    last: int | str | None = None
    for part in parts:
        with _opened(part) as file:
            for batch in file.iter_batches(USERS_AT_ONCE, columns=names, use_threads=False):
                rows = _decoded(batch, rules, with_cut)
                users = rows.users.tolist()
                before = [*([] if last is None else [last]), *users]
                if any(a >= b for a, b in pairwise(before)):
                    raise DataError(f"{part}: expected users in ascending order, each once")
                last = users[-1] if users else last
                yield rows


def _decoded(batch: pa.RecordBatch, rules: MergeRules, with_cut: bool) -> Sequences:
    n = batch.num_rows
    user_id = batch.column("user_id")
    users = user_id.to_numpy() if rules.user_id_kind is IdKind.INT else user_id.to_numpy(zero_copy_only=False)
    columns = {name: batch.column(name).flatten().to_numpy() for name in STORED_DTYPES if name != "feature"}
    feature = batch.column("feature").flatten()
    packed = feature.cast(pa.binary(rules.feature_width))
    size = len(feature) * rules.feature_width
    data = np.frombuffer(packed.buffers()[1], np.int8)[packed.offset * rules.feature_width :] if size else _NO_BYTES
    columns["feature"] = data[:size].reshape(len(feature), rules.feature_width)
    no_cut = np.zeros(0, np.int64)
    lengths = batch.column("cut_item_key").value_lengths() if with_cut else None
    return Sequences(
        users=users,
        offsets=_offsets(batch.column("item_key").value_lengths().to_numpy()),
        columns=columns,
        cut_offsets=_offsets(np.zeros(n, np.int64) if lengths is None else lengths.fill_null(0).to_numpy()),
        cut_item_key=batch.column("cut_item_key").flatten().to_numpy() if with_cut else no_cut,
        cut_outcome=batch.column("cut_outcome").flatten().to_numpy() if with_cut else no_cut.astype(np.int16),
        cut_known=np.ones(n, bool) if lengths is None else lengths.is_valid().to_numpy(zero_copy_only=False),
    )


def _empty(rules: MergeRules) -> Sequences:
    shape = {name: (0, rules.feature_width) if name == "feature" else (0,) for name in STORED_DTYPES}
    return Sequences(
        users=np.empty(0, np.int64 if rules.user_id_kind is IdKind.INT else object),
        offsets=np.zeros(1, np.int64),
        columns={name: np.empty(shape[name], dtype) for name, dtype in STORED_DTYPES.items()},
        cut_offsets=np.zeros(1, np.int64),
        cut_item_key=np.empty(0, np.int64),
        cut_outcome=np.empty(0, np.int16),
        cut_known=np.empty(0, bool),
    )


class _PartWriter:
    """Writes one part in row groups of bounded size. A part without users has no file, unless ``always``."""

    def __init__(self, path: Path, schema: pa.Schema, *, always: bool) -> None:
        self._path, self._schema, self._always = path, schema, always
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[pa.Table] = []
        self._bytes = 0

    def add(self, rows: Sequences) -> None:
        if len(rows):
            self._pending.append(_encoded(rows, self._schema))
            self._bytes += self._pending[-1].nbytes
        if self._bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
        if self._pending:
            table = pa.concat_tables(self._pending)
            self._writer.write_table(table, row_group_size=table.num_rows)
        self._pending, self._bytes = [], 0

    def __enter__(self) -> _PartWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and (self._pending or self._always):
            self._flush()
        if self._writer is not None:
            self._writer.close()


def _encoded(rows: Sequences, schema: pa.Schema) -> pa.Table:
    offsets = pa.array(rows.offsets, pa.int32())
    arrays: dict[str, pa.Array] = {"user_id": pa.array(rows.users.tolist(), schema.field("user_id").type)}
    for name, values in rows.columns.items():
        flat = pa.array(values) if name != "feature" else _packed(values)
        arrays[name] = pa.ListArray.from_arrays(offsets, flat)
    cut_offsets = pa.array(rows.cut_offsets, pa.int32())
    unknown = pa.array(~rows.cut_known)
    for name in CUT_COLUMNS:
        arrays[name] = pa.ListArray.from_arrays(cut_offsets, pa.array(getattr(rows, name)), mask=unknown)
    return pa.table([arrays[name].cast(schema.field(name).type) for name in schema.names], schema=schema)


def _packed(feature: np.ndarray) -> pa.Array:
    """int8 ``[n, F]`` → n byte strings."""
    n, F = feature.shape
    data = pa.py_buffer(np.ascontiguousarray(feature))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(F), n, [None, data]).cast(pa.binary())
