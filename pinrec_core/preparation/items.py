"""Reads the items file: catalogue rows with their features, and the texts of rows that are queries.

Memory grows with the catalogue, whose features are INT8, but not with the log. This module knows nothing of events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pinrec_core.errors import DataError
from pinrec_core.ids import IdKind
from pinrec_core.preparation import columns
from pinrec_core.preparation.features import ContentFeatures
from pinrec_core.preparation.quarantine import Faults, QuarantineWriter, Reason
from pinrec_core.preparation.reader import Progress, RawBatch, estimate_rows, read_batches
from pinrec_core.preparation.schema import ItemColumns

_TRUTH = {"true": True, "1": True, "false": False, "0": False, "": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """The V catalogue rows, in the order of the file: one entry of each array per item, ``feature`` int8 ``[V, F]``."""

    item_key: np.ndarray
    item_id: pa.Array
    title: pa.Array
    categories: pa.Array
    feature: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemTable:
    """The contents of the items file: the pins, and a lookup of the keys of pins and queries.

    ``key`` holds all keys, int64, ascending. ``query`` holds for each key the position of its text in ``query_text``,
    or −1 for a pin.
    """

    pins: Pins
    key: np.ndarray
    query: np.ndarray
    query_text: pa.StringArray
    rows_read: dict[str, int]  # by file

    def look_up(self, item_key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether each item is known, bool ``[n]``, and the position of its query text, int64 ``[n]``.

        The position is −1 for pins and unknown items.
        """
        if not len(self.key):
            return np.zeros(len(item_key), bool), np.full(len(item_key), -1)
        at = np.minimum(np.searchsorted(self.key, item_key), len(self.key) - 1)
        known = self.key[at] == item_key
        return known, np.where(known, self.query[at], -1)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """The valid rows of one batch."""

    file: str
    row: np.ndarray
    key: np.ndarray
    item_id: pa.Array
    title: pa.Array
    categories: pa.Array
    is_query: np.ndarray
    feature: np.ndarray
    scale: np.ndarray


def infer_item_id_kind(files: Mapping[str, Path], spec: ItemColumns) -> IdKind:
    """The id kind that the first records of the first file suggest."""
    name, path = next(iter(files.items()))
    first = next(read_batches(path, [spec.id], delimiter=spec.delimiter), None)
    if first is None or not first.batch.num_rows:
        raise DataError(f"{name}: expected at least one item")
    return columns.infer_id_kind(first.batch.column(spec.id))


def supplied_vector_width(files: Mapping[str, Path], spec: ItemColumns) -> int:
    """The width of the first vector that is not empty; 0 where the mapping has no vector column."""
    if spec.vector is None:
        return 0
    for path in files.values():
        for raw in read_batches(path, [spec.vector], delimiter=spec.delimiter):
            widths = pc.list_value_length(_as_lists(raw.batch.column(0), f"items.{spec.vector}"))
            widest = widths.filter(pc.greater(widths, 0))
            if len(widest):
                return widest[0].as_py()
    raise DataError(f"items.vector={spec.vector!r}: expected at least one vector, every cell is empty")


def read_items(
    files: Mapping[str, Path],
    spec: ItemColumns,
    kind: IdKind,
    features: ContentFeatures,
    quarantine: QuarantineWriter,
    progress: Progress,
) -> ItemTable:
    """Read, validate and encode the items. Bad items, and all but the first of an id, go to ``quarantine``."""
    rows_read = dict.fromkeys(files, 0)
    expected = sum(estimate_rows(path) for path in files.values())
    chunks: list[_Chunk] = []
    for name, path in files.items():
        for raw in read_batches(path, spec.columns, delimiter=spec.delimiter):
            rows_read[name] += raw.num_read
            quarantine.add(name, raw.malformed)
            chunk, faults = _read_chunk(name, raw, spec, kind, features)
            quarantine.add(name, faults)
            chunks.append(chunk)
            progress("encoding items", sum(rows_read.values()), expected)
    if not sum(len(c.key) for c in chunks):
        raise DataError(f"items.files={list(files)}: expected at least one valid item")
    return _assemble(list(_without_repeats(chunks, quarantine)), rows_read)


def _read_chunk(
    file: str, raw: RawBatch, spec: ItemColumns, kind: IdKind, features: ContentFeatures
) -> tuple[_Chunk, pa.Table | None]:
    batch, faults = raw.batch, Faults(raw.rows)
    n = batch.num_rows
    item_id, key = columns.ids(batch.column(spec.id), kind, faults, spec.id)

    def text_of(name: str | None) -> pa.StringArray:
        if name is None:
            return pa.array([""] * n, pa.string())
        return _tidy(columns.texts(batch.column(name), faults, name, required=False))

    title = text_of(spec.title)
    categories = _join([_split(text_of(name), spec.category_separator) for name in spec.categories], ", ", n)
    is_query = _truth(batch.column(spec.is_query), faults, spec.is_query) if spec.is_query else np.zeros(n, bool)
    faults.mark(is_query & columns.mask(pc.equal(title, "")), Reason.MISSING_QUERY_TEXT, spec.title or "title", title)
    vectors = _vectors(batch.column(spec.vector), features.vector_width, faults, spec.vector) if spec.vector else None

    described = _join([title, *(text_of(name) for name in spec.text), categories], ". ", n)
    pin = faults.ok & ~is_query
    feature = np.zeros((n, features.width), np.int8)
    scale = np.zeros(n, np.float32)
    feature[pin], scale[pin] = features.pins(
        described.filter(pa.array(pin)).to_pylist(), vectors[pin] if vectors is not None else None
    )
    valid = pa.array(faults.ok)
    chunk = _Chunk(
        file, raw.rows[faults.ok], key[faults.ok], item_id.filter(valid), title.filter(valid),
        categories.filter(valid), is_query[faults.ok], feature[faults.ok], scale[faults.ok],
    )  # fmt: skip
    return chunk, faults.table()


def _without_repeats(chunks: Sequence[_Chunk], quarantine: QuarantineWriter) -> Iterator[_Chunk]:
    """The chunks without rows that repeat an id. Different ids with the same key stay; the catalogue refuses them."""
    key = np.concatenate([c.key for c in chunks])
    item_id = pa.chunked_array([c.item_id for c in chunks])
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    same_id = pc.equal(item_id, item_id.take(pa.array(first[inverse]))).to_numpy()
    repeated = (first[inverse] != np.arange(len(key))) & same_id
    start = 0
    for chunk in chunks:
        bad = repeated[start : start + len(chunk.key)]
        start += len(chunk.key)
        faults = Faults(chunk.row)
        faults.mark(bad, Reason.DUPLICATE_ITEM, "id", chunk.item_id)
        quarantine.add(chunk.file, faults.table())
        keep = pa.array(~bad)
        yield _Chunk(
            chunk.file, chunk.row[~bad], chunk.key[~bad], chunk.item_id.filter(keep), chunk.title.filter(keep),
            chunk.categories.filter(keep), chunk.is_query[~bad], chunk.feature[~bad], chunk.scale[~bad],
        )  # fmt: skip


def _assemble(chunks: Sequence[_Chunk], rows_read: dict[str, int]) -> ItemTable:
    key = np.concatenate([c.key for c in chunks])
    is_query = np.concatenate([c.is_query for c in chunks])
    title = pa.concat_arrays([c.title for c in chunks])
    pin = pa.array(~is_query)
    order = np.argsort(key, kind="stable")
    query = np.where(is_query, np.cumsum(is_query) - 1, -1)
    pins = Pins(
        item_key=key[~is_query],
        item_id=pa.concat_arrays([c.item_id for c in chunks]).filter(pin),
        title=title.filter(pin),
        categories=pa.concat_arrays([c.categories for c in chunks]).filter(pin),
        feature=np.concatenate([c.feature[~c.is_query] for c in chunks]),
        scale=np.concatenate([c.scale[~c.is_query] for c in chunks]),
    )
    if not len(pins.item_key):
        raise DataError("items: expected at least one item that is not a query")
    return ItemTable(
        pins=pins, key=key[order], query=query[order], query_text=title.filter(pa.array(is_query)), rows_read=rows_read
    )


def _vectors(column: pa.Array, width: int, faults: Faults, field: str) -> np.ndarray:
    """The vectors as float32 ``[n, width]``. An empty cell becomes a row of zeros."""
    lists = _as_lists(column, field)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    faults.mark((lengths != 0) & (lengths != width), Reason.VECTOR_WIDTH, field, column)
    out = np.zeros((len(column), width), np.float32)
    given = lengths == width
    flat = pc.list_flatten(lists.filter(pa.array(given)))
    out[given] = pc.fill_null(pc.cast(flat, pa.float32()), np.nan).to_numpy(zero_copy_only=False).reshape(-1, width)
    finite = np.isfinite(out).all(axis=1)
    faults.mark(~finite, Reason.NON_FINITE, field, column)
    out[~finite] = 0.0
    return out


def _as_lists(column: pa.Array, field: str) -> pa.Array:
    """The column as lists. Text such as ``0.1 0.2`` or ``[0.1, 0.2]`` is split; parts that are no number become NaN."""
    if pt.is_list(column.type) or pt.is_large_list(column.type) or pt.is_fixed_size_list(column.type):
        return column
    text = columns.texts(column, Faults(np.arange(len(column))), field, required=False)
    bare = pc.utf8_trim(text, " \t[]()")
    cells = pc.split_pattern_regex(bare, r"[\s,;]+")
    number = pc.match_substring_regex(cells.values, r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,2})?$")
    values = pc.cast(pc.if_else(number, cells.values, "nan"), pa.float64()).cast(pa.float32(), safe=False)
    lists = pa.ListArray.from_arrays(cells.offsets, values)
    return pc.if_else(pc.equal(bare, ""), pa.scalar(None, lists.type), lists)


def _truth(column: pa.Array, faults: Faults, field: str) -> np.ndarray:
    text = pc.utf8_lower(pc.utf8_trim_whitespace(columns.texts(column, faults, field, required=False)))
    known = columns.mask(pc.is_in(text, pa.array(list(_TRUTH))))
    faults.mark(~known, Reason.WRONG_TYPE, field, text)
    return columns.mask(pc.is_in(text, pa.array([word for word, truth in _TRUTH.items() if truth])))


def _tidy(text: pa.StringArray) -> pa.StringArray:
    """Removes white space at the ends and makes each run of it within a text a single space."""
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(text, r"\s+", " "))


def _split(text: pa.StringArray, separator: str | None) -> pa.StringArray:
    """``a | b|c`` → ``a, b, c`` for the separator ``|``."""
    if separator is None:
        return text
    parts = pc.split_pattern(text, separator)
    trimmed = pa.ListArray.from_arrays(parts.offsets, pc.utf8_trim_whitespace(parts.values))
    return pc.binary_join(trimmed, ", ")


def _join(parts: Sequence[pa.StringArray], separator: str, n: int) -> pa.StringArray:
    """For each of n rows, its parts that are not empty, joined by the separator."""
    joined = pa.array([""] * n, pa.string())
    for part in parts:
        both = pc.binary_join_element_wise(joined, part, separator)
        joined = pc.if_else(pc.equal(joined, ""), part, pc.if_else(pc.equal(part, ""), joined, both))
    return joined
