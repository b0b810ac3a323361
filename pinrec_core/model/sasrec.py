"""SASRec (Kang & McAuley, 2018) with sampled softmax: item ids and their order, nothing else.

The same decoder, objective and trainer as PinRec; no content, surface, time or conditioning. Items are their ID
embedding, shared by inputs and outputs; a query is one more id of a history. What differs from the published model:
hashed ID tables, a linear map into the decoder and one out of it, and vectors that are normalised and scaled by the
learned temperature, so that the same index serves it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinrec_core.config.sections import ModelConfig
from pinrec_core.errors import ConfigError, require
from pinrec_core.model.sequence_model import ConditionedHead, HistoryBatch, SequenceModel, inverse_of
from pinrec_core.representations.item_embedder import unit_vectors


class SASRec(SequenceModel):
    """Raises ``ConfigError`` unless the ID embedding is as wide as an item."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        expected = f"item_width={config.item_width}: SASRec's items are their ID embeddings"
        require(config.id_width == config.item_width, "id_width", config.id_width, expected, error=ConfigError)
        self.head = UserEmbedding(hidden_width=config.hidden_width, item_width=config.item_width)
        with torch.no_grad():  # as in PinRec: a fresh model answers with the item it saw last
            self.head.out.weight.copy_(inverse_of(self.token_projection))
            nn.init.zeros_(self.head.out.bias)

    def represent_pins(self, feature: Tensor, scale: Tensor, id_embedding: Tensor) -> Tensor:
        """ID embeddings ``[..., I]`` → unit vectors ``[..., D]``; the content is ignored."""
        return F.normalize(self.id_dropout(id_embedding), dim=-1)

    def represent_items(self, batch: HistoryBatch) -> Tensor:
        return self.represent_pins(batch.feature, batch.scale, batch.id_embedding)

    def tokens(self, item: Tensor, surface: Tensor, timestamp: Tensor, previous_timestamp: Tensor) -> Tensor:
        """Item representations ``[B, T, D]`` → decoder tokens ``[B, T, H]``; surface and time are ignored."""
        return self.token_projection(item)

    def history_tokens(self, batch: HistoryBatch, item: Tensor) -> Tensor:
        return torch.cat([self.start_token.expand(len(item), 1, -1), self.token_projection(item)], dim=1)


class UserEmbedding(ConditionedHead):
    """The hidden state in item space; there is nothing to condition it on."""

    def __init__(self, *, hidden_width: int, item_width: int) -> None:
        super().__init__()
        self.out = nn.Linear(hidden_width, item_width)

    def condition(self, outcome: Tensor, offset: Tensor) -> Tensor:
        """Nothing, in the shape of a conditioning: zeros ``[..., 1]``."""
        return torch.zeros_like(outcome, dtype=self.out.weight.dtype).unsqueeze(-1)

    def conditioned(self, hidden: Tensor, condition: Tensor) -> Tensor:
        """Hidden states ``[..., H]`` → unit vectors ``[..., D]``."""
        return unit_vectors(self.out(hidden) + condition, self.out.weight.dtype)
