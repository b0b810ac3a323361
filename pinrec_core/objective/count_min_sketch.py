"""A count-min sketch of the training stream (PinRec, objective): how often an item is a target.

In-batch negatives are drawn from the targets, so this also tells how often an item is a negative. An estimate never
falls below the true count, and exceeds it by more than e/width · total with probability at most e^−depth (Cormode &
Muthukrishnan, 2005). Memory is depth · width, whatever the size of the catalogue.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pinrec_core.representations.id_embedding import mix64


class CountMinSketch(nn.Module):
    """Counts of hashed item keys. They are buffers: they move with the model and are saved with it."""

    counts: Tensor
    total: Tensor
    hash_seeds: Tensor

    def __init__(self, *, width: int, depth: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(depth, width, dtype=torch.int64))
        self.register_buffer("total", torch.zeros((), dtype=torch.int64))
        # The seeds differ from those of the ID tables, so that items which collide there do not collide here too.
        seeds = torch.arange(1, depth + 1, dtype=torch.int64) * 0x1B873593CC9E2D51
        self.register_buffer("hash_seeds", seeds, persistent=False)

    def update(self, item_key: Tensor) -> None:
        """Count keys, int64 ``[n]``. A key counts as often as it occurs."""
        cell = self._cells(item_key)
        self.counts.scatter_add_(1, cell, torch.ones_like(cell))
        self.total += item_key.numel()

    def probability(self, item_key: Tensor) -> Tensor:
        """Estimated share of each key in the stream, float ``[n]``.

        A key that was never seen is given a count of 1, so that the logarithm is finite.
        """
        count = self.counts.gather(1, self._cells(item_key)).amin(dim=0).clamp(min=1)
        return count.float() / self.total.clamp(min=1)

    def _cells(self, item_key: Tensor) -> Tensor:
        """Column of each key in each row: int64 ``[depth, n]``."""
        return mix64(item_key.unsqueeze(0) + self.hash_seeds.unsqueeze(1)) % self.counts.shape[1]
