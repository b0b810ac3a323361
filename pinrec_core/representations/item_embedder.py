"""The item embedders, one per item type (PinRec, model): fully connected layers with LayerNorm, ReLU and a normalised
output.

They define the item space, to which the tokens of a history, the vectors of the index and generated embeddings belong.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ItemEmbedder(nn.Module):
    """Maps the features of one item type to the item space."""

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
    """``[..., D]`` → the same directions with length 1, in ``dtype``.

    The lengths are computed in FP32 even under autocast: rounded to BF16, they would change a logit by up to .4 at
    λ = 100.
    """
    return F.normalize(vectors.float(), dim=-1).to(dtype)
