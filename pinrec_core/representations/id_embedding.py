"""Hashed ID embeddings (PinRec, model): K hashes of an id select a row in each of K tables; the K rows of width I/K are
concatenated.

The tables need rows · I numbers, whatever the number of items. Two items have the same embedding only if all K hashes
collide. This is the form that is trained; ``id_tables`` is the form that is served.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pinrec_core.representations.id_tables import SEED


class HashedIdEmbedding(nn.Module):
    """K tables of ``rows`` rows each, stored one below the other. ``rows`` is a power of two.

    Gradients are sparse unless ``tables.sparse`` is unset. A training step then changes only the rows that it looked
    up, so its cost depends on the batch and not on the size of the tables.
    """

    def __init__(self, *, width: int, hashes: int, rows: int) -> None:
        super().__init__()
        self.tables = nn.Embedding(hashes * rows, width // hashes, sparse=True)
        # The norm is about 1, as that of the content vector. If it were much smaller, the biases of the item embedder
        # would dominate, and items without content would all look alike and be learned slowly.
        if width:
            nn.init.normal_(self.tables.weight, std=width**-0.5)
        self.hashes = hashes
        self.rows = rows
        self.width = width

    def forward(self, item_key: Tensor) -> Tensor:
        """int64 ``[n]`` → float ``[n, I]``."""
        (n,) = item_key.shape
        parts = self.tables(rows_of_tables(item_key, self.hashes, self.rows))  # [K, n, I/K]
        return parts.transpose(0, 1).reshape(n, self.width)


def rows_of_tables(item_key: Tensor, hashes: int, rows: int) -> Tensor:
    """int64 ``[n]`` → the row of each key in each table, counted through all K tables: int64 ``[K, n]``."""
    table = torch.arange(hashes, device=item_key.device).unsqueeze(1)
    return (mix64(item_key.unsqueeze(0) + (table + 1) * SEED) & (rows - 1)) + rows * table


def mix64(x: Tensor) -> Tensor:
    """The finaliser of splitmix64: every input bit influences every output bit. Multiplication is modulo 2^64."""
    x = (x ^ _shift_right(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift_right(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """A logical shift; the ``>>`` of int64 repeats the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
