"""Hashed ID tables as they are served: all K tables in one array of packed rows, and one gather (PinRec, serving).

``HashedIdEmbedding`` is what training changes, and the plain twin of this module: both look up the same rows and give
the same vectors up to the number format. This module knows no file; a release maps the array from one, so that every
process of a machine shares it. It imports torch only where there are tensors, or INT8 rows: torch would be most of the
memory of a process that serves FP16 rows.

The hash runs in NumPy, on rows in the order of the result, so that nothing has to be transposed. Torch needs half as
many operations again for it, because its integers are signed, and each of them costs more to start: for the 128 keys of
a small request its hash took three times as long as the gather itself, in TorchScript as well.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

SEED = 0x2545F4914F6CDD1D
"""Hash k is seeded with k times this number. The seeds lie far apart, so that the hashes are independent for any range
of keys."""


class RowFormat(StrEnum):
    """Number format of the rows. An ID embedding is FP16 in either, because it passes between the stages as such."""

    FP16 = "fp16"  # the vectors that were trained, rounded as they would be for the next stage anyway
    INT8 = "int8"  # with an FP16 scale at the end of each row: about half the bytes of FP16


SCALE_BYTES = 2
CHUNK_ROWS = 1 << 20
"""Rows that are packed at once: memory beyond the result is bounded."""
TILED_KEYS = 1 << 12
PAGE_BYTES = 4096

# Constants as arrays without dimensions: NumPy starts an operation with them in half the time that scalars take.
_SHIFT_1, _SHIFT_2, _SHIFT_3 = (np.array(bits, np.uint64) for bits in (30, 27, 31))
_FACTOR_1, _FACTOR_2 = (np.array(factor, np.uint64) for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class TrainedTables(Protocol):
    """What ``IdTables.pack`` reads of a ``HashedIdEmbedding``."""

    tables: nn.Embedding  # [K · rows, I/K]
    hashes: int


class IdTables:
    """K tables in one array. A call takes keys and returns their ID embeddings."""

    def __init__(self, rows: np.ndarray, *, row_format: RowFormat, hashes: int) -> None:
        """``rows`` is float16 ``[K · rows, I/K]``, or for INT8 uint8 ``[K · rows, I/K + 2]``, the scale last.

        The number of rows of one table is a power of two.
        """
        count, columns = rows.shape
        self.rows = rows
        self.row_format = row_format
        self.hashes = hashes
        self.row_width = columns - SCALE_BYTES if row_format is RowFormat.INT8 else columns
        self._mask = np.array(count // hashes - 1, np.uint64)
        table = np.arange(hashes, dtype=np.uint64)
        # Repeated for many keys, because adding a contiguous array costs a third of broadcasting a short one.
        self._seeds = np.tile((table + np.uint64(1)) * np.uint64(SEED), TILED_KEYS)
        self._first_rows = np.tile(table * np.uint64(count // hashes), TILED_KEYS)

    @property
    def width(self) -> int:
        """I, the width of an ID embedding."""
        return self.hashes * self.row_width

    @staticmethod
    def pack(embedding: TrainedTables, row_format: RowFormat = RowFormat.FP16) -> IdTables:
        """The tables of ``embedding`` as packed rows, in ordinary memory."""
        weight = embedding.tables.weight.detach()
        count, width = weight.shape
        int8 = row_format is RowFormat.INT8
        rows = np.empty((count, width + SCALE_BYTES), np.uint8) if int8 else np.empty((count, width), np.float16)
        for start in range(0, count, CHUNK_ROWS):
            part = weight[start : start + CHUNK_ROWS].cpu()
            rows[start : start + CHUNK_ROWS] = _to_int8(part.numpy()) if int8 else part.half().numpy()
        return IdTables(rows, row_format=row_format, hashes=embedding.hashes)

    def populate(self) -> None:
        """Touch every page of mapped rows, so that no request waits for the disk.

        The pages stay in memory as long as the machine does not need it for something else.
        """
        if self.rows.size:
            self.rows.reshape(-1).view(np.uint8)[::PAGE_BYTES].max()

    def __call__(self, item_key: Tensor) -> Tensor:
        """int64 ``[n]`` on the CPU → float16 ``[n, I]``."""
        import torch

        return torch.from_numpy(self.embed(item_key.numpy()))

    def embed(self, item_key: np.ndarray) -> np.ndarray:
        """int64 ``[n]`` → float16 ``[n, I]``."""
        rows = self.rows.take(self.rows_of(item_key), 0)  # [n · K, columns]
        if self.row_format is RowFormat.INT8:
            rows = _from_int8(rows)
        return rows.reshape(len(item_key), self.width)

    def rows_of(self, item_key: np.ndarray) -> np.ndarray:
        """int64 ``[n]`` → the K rows of each key, key after key: int64 ``[n · K]``.

        The twin of ``id_embedding.rows_of_tables``, whose result is ``[K, n]``.
        """
        x = item_key.view(np.uint64).repeat(self.hashes)
        np.add(x, _longer(self._seeds, len(x)), x)
        shifted = np.empty_like(x)
        np.bitwise_xor(x, np.right_shift(x, _SHIFT_1, shifted), x)
        np.multiply(x, _FACTOR_1, x)
        np.bitwise_xor(x, np.right_shift(x, _SHIFT_2, shifted), x)
        np.multiply(x, _FACTOR_2, x)
        np.bitwise_xor(x, np.right_shift(x, _SHIFT_3, shifted), x)
        np.bitwise_and(x, self._mask, x)
        np.add(x, _longer(self._first_rows, len(x)), x)
        return x.view(np.int64)


def _longer(pattern: np.ndarray, length: int) -> np.ndarray:
    """The first ``length`` values of ``pattern``, which goes on for ever."""
    return pattern[:length] if length <= len(pattern) else np.resize(pattern, length)


def _to_int8(vectors: np.ndarray) -> np.ndarray:
    """float32 ``[n, w]`` → uint8 ``[n, w + 2]``: whole numbers from −127 to 127, then their scale in FP16.

    The vectors are divided by the rounded scale, so that its rounding adds no error.
    """
    scale = (np.abs(vectors).max(axis=1, initial=0.0) / 127.0).astype(np.float16)
    divisor = np.where(scale > 0, scale, 1.0).astype(np.float32)
    values = np.rint(vectors / divisor[:, None]).clip(-127, 127).astype(np.int8)
    return np.concatenate([values.view(np.uint8), scale[:, None].view(np.uint8)], axis=1)


def _from_int8(rows: np.ndarray) -> np.ndarray:
    """uint8 ``[n, w + 2]`` → float16 ``[n, w]``. By torch: NumPy's conversion to FP16 takes ten times as long."""
    import torch

    values = torch.from_numpy(rows[:, :-SCALE_BYTES].view(np.int8))
    scale = torch.from_numpy(rows[:, -SCALE_BYTES:].view(np.float16))
    return values.float().mul_(scale.float()).half().numpy()
