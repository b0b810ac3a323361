"""The conditioned output head (PinRec, model): a small MLP from [hidden state ‖ conditioning] to unit vectors in item
space.

The conditioning is a learned embedding of the outcome and one of the time offset. A variant without one of them has a
single row in its place, so that all four variants share this module.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinrec_core.model.sequence_model import ConditionedHead, inverse_of
from pinrec_core.representations.item_embedder import unit_vectors


class OutputHead(ConditionedHead):
    """A head that is conditioned on ``num_conditions`` outcomes and ``max_offset`` offsets."""

    def __init__(self, *, hidden_width: int, item_width: int, num_conditions: int, max_offset: int) -> None:
        super().__init__()
        self.outcome_embedding = nn.Embedding(num_conditions, hidden_width)
        self.offset_embedding = nn.Embedding(max_offset, hidden_width)
        # Together these two are one linear layer on the concatenation. Apart, the product with the hidden state can be
        # computed once for all conditions.
        self.from_hidden = nn.Linear(hidden_width, 2 * hidden_width)
        self.from_condition = nn.Linear(2 * hidden_width, 2 * hidden_width, bias=False)
        self.out = nn.Linear(2 * hidden_width, item_width)

    @torch.no_grad()
    def start_as_inverse(self, token_projection: nn.Linear) -> None:
        """Set initial weights that map a token back to the item that it was made of, apart from the conditioning.

        A fresh model then answers with the item it saw last, which is a good first guess. From random weights it would
        have to learn the map back to item space first, and on a small log of short sessions it never does.
        """
        identity = torch.eye(token_projection.out_features)
        self.from_hidden.weight.copy_(torch.cat([identity, -identity]))
        nn.init.zeros_(self.from_hidden.bias)
        back = inverse_of(token_projection)
        self.out.weight.copy_(torch.cat([back, -back], dim=1))  # gelu(x) − gelu(−x) = x
        nn.init.zeros_(self.out.bias)

    def condition(self, outcome: Tensor, offset: Tensor) -> Tensor:
        """What the conditioning adds in the first layer, ``[..., 2H]``. It is the same for all requests and steps."""
        return self.from_condition(torch.cat([self.outcome_embedding(outcome), self.offset_embedding(offset - 1)], -1))

    def conditioned(self, hidden: Tensor, condition: Tensor) -> Tensor:
        """Hidden states ``[..., H]`` → unit vectors ``[..., D]``."""
        return unit_vectors(self.out(F.gelu(self.from_hidden(hidden) + condition)), self.out.weight.dtype)
