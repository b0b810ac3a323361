"""Per-type item embedders (PinRec, model): fully connected layers with LayerNorm and ReLU, L2-normalised output.

Their output is *the* item space: history tokens, candidates in the index and generated embeddings all live in it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ItemEmbedder(nn.Module):
    """Features of one item type to the item space."""

    def __init__(self, *, input_width: int, item_width: int, layers: int) -> None:
        super().__init__()
        hidden_width = 2 * item_width
        stack: list[nn.Module] = []
        for layer in range(layers - 1):
            stack += [
                nn.Linear(input_width if layer == 0 else hidden_width, hidden_width),
                nn.LayerNorm(hidden_width),
                nn.ReLU(),
            ]
        out = nn.Linear(hidden_width if layers > 1 else input_width, item_width)
        self.stack = nn.Sequential(*stack, out)

    def forward(self, features: Tensor) -> Tensor:
        """float ``[..., input_width]`` → unit vectors ``[..., D]``."""
        return unit_vectors(self.stack(features), features.dtype)


def unit_vectors(vectors: Tensor, dtype: torch.dtype) -> Tensor:
    """``[..., D]`` at length 1, in the ``dtype`` of the weights.

    Not in that of a product under autocast: with lengths rounded to BF16 a logit of λ = 100 is off by up to .4.
    """
    return F.normalize(vectors.float(), dim=-1).to(dtype)
