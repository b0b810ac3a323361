"""Stage one of two-stage training (PinRec, model): a minimal dot-product model, which pre-trains the ID tables.

The ID embedding of a user's last item predicts the items that follow, whatever the surface or action. The model has
hardly any weights besides the tables, so an epoch is cheap. The number of epochs is best read from the held-out loss.
Stage two trains another model that starts from these tables, either frozen, or with dropout and a learning rate of
their own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinrec_core.config.sections import ModelConfig
from pinrec_core.errors import ConfigError, require
from pinrec_core.history import ItemType
from pinrec_core.model.sequence_model import ConditionedHead, HistoryBatch, ItemModel


class DotProduct(ItemModel):
    """A model that is trained like any other but cannot generate. Raises ``ConfigError`` without an ID embedding."""

    def __init__(self, config: ModelConfig) -> None:
        require(config.id_width > 0, "id_width", config.id_width, "ID tables to pre-train", error=ConfigError)
        super().__init__(config)
        self.start_token = nn.Parameter(torch.empty(config.id_width))
        nn.init.normal_(self.start_token, std=config.id_width**-0.5)
        self.head = Unchanged()

    def represent_pins(self, feature: Tensor, scale: Tensor, id_embedding: Tensor) -> Tensor:
        """ID embeddings ``[..., I]`` → unit vectors of that width; the content is ignored."""
        return F.normalize(self.id_dropout(id_embedding), dim=-1)

    def forward(self, batch: HistoryBatch) -> tuple[Tensor, Tensor]:
        """→ the last item seen at each position ``[B, 1 + T, I]``, and the items ``[B, T, I]``.

        Positions before the first item have a learned start vector. Search queries are not in the tables, so after a
        query the item before it is still the last one.
        """
        item = self.represent_pins(batch.feature, batch.scale, batch.id_embedding)
        start = F.normalize(self.start_token, dim=0).expand(len(item), 1, -1)
        position = torch.arange(1, item.shape[1] + 1, device=item.device)
        last = torch.where(batch.item_type == ItemType.PIN, position, 0).cummax(dim=1).values
        seen = torch.cat([start, item], dim=1)
        return torch.cat([start, seen.gather(1, last.unsqueeze(-1).expand_as(item))], dim=1), item


class Unchanged(ConditionedHead):
    """The head of a model whose hidden states are already in item space, without conditioning."""

    def condition(self, outcome: Tensor, offset: Tensor) -> Tensor:
        return torch.zeros_like(outcome).unsqueeze(-1)

    def conditioned(self, hidden: Tensor, condition: Tensor) -> Tensor:
        return hidden
