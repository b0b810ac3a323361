"""The item catalogue: one row per item, found by the item's key.

It is an uncompressed Arrow file, sorted by ``item_key``. It is memory-mapped, so opening it copies nothing and all
processes of a machine share its pages. The number of a row, ``item_row``, is the same in the release's index.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from pinrec_core.dataset.manifest import CATALOGUE_NAME
from pinrec_core.errors import DataError


class ItemCatalogue:
    """A read-only view of ``catalogue.arrow``.

    ``item_key`` is int64 ``[V]`` and ascending, ``feature`` int8 ``[V, F]``, ``scale`` float32 ``[V]``.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.item_key: np.ndarray = _single_chunk(table, "item_key").to_numpy()
        self.scale: np.ndarray = _single_chunk(table, "scale").to_numpy()
        feature = _single_chunk(table, "feature")
        width = feature.type.byte_width
        raw = np.frombuffer(feature.buffers()[1], np.int8)[feature.offset * width :]
        self.feature: np.ndarray = raw[: len(feature) * width].reshape(len(feature), width)
        self._item_id = _single_chunk(table, "item_id")

    @staticmethod
    def open(folder: Path) -> ItemCatalogue:
        """The catalogue of a prepared dataset or a release. Raises ``DataError`` as ``open_file`` does."""
        return ItemCatalogue.open_file(Path(folder) / CATALOGUE_NAME)

    @staticmethod
    def open_file(path: Path) -> ItemCatalogue:
        """Raises ``DataError`` for a file that is absent or damaged."""
        if not path.is_file():
            raise DataError(f"{path}: expected an item catalogue")
        try:
            with pa.memory_map(str(path)) as source:
                return ItemCatalogue(pa.ipc.open_file(source).read_all())
        except (pa.ArrowException, KeyError) as error:
            raise DataError(f"{path}: expected a readable item catalogue, {error}") from error

    def __len__(self) -> int:
        return len(self.item_key)

    def rows_of(self, item_key: np.ndarray) -> np.ndarray:
        """Keys, int64 ``[n]`` → their rows, int64 ``[n]``; −1 for a key that is not in the catalogue."""
        item_key = np.asarray(item_key, np.int64)
        if len(self) == 0:
            return np.full(len(item_key), -1, np.int64)
        row = np.minimum(np.searchsorted(self.item_key, item_key), len(self) - 1)
        return np.where(self.item_key[row] == item_key, row, -1)

    def item_ids(self, item_row: np.ndarray) -> np.ndarray:
        """Rows, int64 ``[n]`` → external ids: int64 ``[n]``, or an object array of ``str`` if the ids are strings."""
        return self._item_id.take(pa.array(item_row)).to_numpy(zero_copy_only=False)

    def title(self, item_row: int) -> str:
        return self._table["title"][item_row].as_py()

    def categories(self, item_row: int) -> str:
        return self._table["categories"][item_row].as_py()


def write_catalogue(
    folder: Path,
    *,
    item_key: np.ndarray,
    item_id: pa.Array,
    title: pa.Array,
    categories: pa.Array,
    feature: np.ndarray,
    scale: np.ndarray,
) -> None:
    """Sort the items by key and write the catalogue of ``folder``.

    Raises ``DataError`` when two items share a key: an id occurs twice, or the hashes of two ids collide.
    """
    order = np.argsort(item_key, kind="stable")
    sorted_key = item_key[order]
    clash = np.flatnonzero(sorted_key[1:] == sorted_key[:-1])
    if len(clash):
        a, b = item_id[int(order[clash[0]])], item_id[int(order[clash[0] + 1])]
        raise DataError(f"item_id={b.as_py()!r}: expected a key of its own, it shares one with item_id={a.as_py()!r}")
    n, F = feature.shape
    packed = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(F), n, [None, pa.py_buffer(np.ascontiguousarray(feature[order]))]
    )
    take = pa.array(order)
    table = pa.table(
        {
            "item_key": sorted_key,
            "item_id": item_id.take(take),
            "title": title.take(take),
            "categories": categories.take(take),
            "feature": packed,
            "scale": np.asarray(scale, np.float32)[order],
        }
    )
    with pa.OSFile(str(Path(folder) / CATALOGUE_NAME), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, n))


def _single_chunk(table: pa.Table, column: str) -> pa.Array:
    """The column as one array. It is not copied if it has a single chunk, as ``write_catalogue`` makes it."""
    chunked = table[column]
    return chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()
