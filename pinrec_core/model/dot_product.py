"""Stage one of two-stage training (PinRec, model): a minimal dot-product model whose only weights are the ID tables.

The ID embedding of a user's last item predicts those that follow, whatever the surface or action. It has nothing but
the tables to fit, so an epoch costs little; how many do good, the held-out loss says. The tables are then plugged into
a model, which they give a head start: frozen, or with dropout and a learning rate of their own.
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
    """It is trained as any other model is, and generates nothing. Raises ``ConfigError`` without an ID embedding."""

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
        """→ the item last seen at each position ``[B, 1 + T, I]``, a learned start before the first, and the items.

        A query has no rows of its own in the tables, so the item before it stays the last.
        """
        item = self.represent_pins(batch.feature, batch.scale, batch.id_embedding)
        start = F.normalize(self.start_token, dim=0).expand(len(item), 1, -1)
        position = torch.arange(1, item.shape[1] + 1, device=item.device)
        last = torch.where(batch.item_type == ItemType.PIN, position, 0).cummax(dim=1).values
        seen = torch.cat([start, item], dim=1)
        return torch.cat([start, seen.gather(1, last.unsqueeze(-1).expand_as(item))], dim=1), item


class Unchanged(ConditionedHead):
    """A hidden state is in item space already, and nothing conditions it."""

    def condition(self, outcome: Tensor, offset: Tensor) -> Tensor:
        return torch.zeros_like(outcome).unsqueeze(-1)

    def conditioned(self, hidden: Tensor, condition: Tensor) -> Tensor:
        return hidden
