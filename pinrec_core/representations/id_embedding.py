"""Hashed ID embeddings (PinRec, model): the id is hashed K ways into K tables of width I/K, and the parts concatenated.

Memory is K · rows · I/K whatever the number of items; two items collide in full only when all K hashes agree. The
module is TorchScript-able: a release carries it as the CPU ID embedder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class HashedIdEmbedding(nn.Module):
    """K tables of ``rows`` rows each, one below the other. ``rows`` is a power of two.

    Gradients are sparse unless ``tables.sparse`` is unset: a training step touches the rows that it looked up and no
    others, so its work follows the batch, not the tables.
    """

    def __init__(self, *, width: int, hashes: int, rows: int) -> None:
        super().__init__()
        self.tables = nn.Embedding(hashes * rows, width // hashes, sparse=True)
        # About unit norm, as the content vector beside it: smaller, and the embedder's biases drown it, so that items
        # without content all look alike and learn slowly.
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
    """int64 ``[n]`` → the row of each key in each of the K tables, which lie one below the other: int64 ``[K, n]``."""
    table = torch.arange(hashes, device=item_key.device).unsqueeze(1)
    # One seed per hash, far apart, so that the K hash functions are independent for any range of keys.
    seed = (table + 1) * 0x2545F4914F6CDD1D
    return (mix64(item_key.unsqueeze(0) + seed) & (rows - 1)) + rows * table


def mix64(x: Tensor) -> Tensor:
    """The splitmix64 finaliser on int64: every input bit reaches every output bit. Multiplication wraps."""
    x = (x ^ _shift_right(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift_right(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: int64's own shift repeats the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
