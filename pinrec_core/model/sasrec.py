"""SASRec (Kang & McAuley, 2018) with sampled softmax: a baseline that sees item ids and their order, and nothing else.

It has the same decoder, objective and trainer as PinRec, but no content, surface, time or conditioning. An item is its
ID embedding, in inputs and outputs alike; a search query is one more id. Three things differ from the published model:
ID tables are hashed; a linear map leads into the decoder and another one out of it; and vectors are normalised and
scaled by the learned temperature, so that the same index can serve it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinrec_core.config.sections import ModelConfig
from pinrec_core.errors import ConfigError, require
from pinrec_core.model.packed_histories import PackedHistories
from pinrec_core.model.sequence_model import ConditionedHead, HistoryBatch, SequenceModel, inverse_of
from pinrec_core.representations.item_embedder import unit_vectors


class SASRec(SequenceModel):
    """The model for one ``ModelConfig``. Raises ``ConfigError`` unless the ID embedding is as wide as an item."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        expected = f"item_width={config.item_width}: SASRec's items are their ID embeddings"
        require(config.id_width == config.item_width, "id_width", config.id_width, expected, error=ConfigError)
        self.head = UserEmbedding(hidden_width=config.hidden_width, item_width=config.item_width)
        with torch.no_grad():  # as in PinRec, a fresh model answers with the item it saw last
            self.head.out.weight.copy_(inverse_of(self.token_projection))
            nn.init.zeros_(self.head.out.bias)

    def represent_pins(self, feature: Tensor, scale: Tensor, id_embedding: Tensor) -> Tensor:
        """ID embeddings ``[..., I]`` → unit vectors ``[..., D]``; the content is ignored."""
        return F.normalize(self.id_dropout(id_embedding.to(self.start_token.dtype)), dim=-1)

    def represent_items(self, batch: HistoryBatch | PackedHistories) -> Tensor:
        return self.represent_pins(batch.feature, batch.scale, batch.id_embedding)

    def context(self, surface: Tensor, timestamp: Tensor, previous_timestamp: Tensor) -> Tensor:
        """Zeros that broadcast to ``[..., H]``: surface and time are ignored."""
        return self.start_token.new_zeros(*surface.shape, 1)


class UserEmbedding(ConditionedHead):
    """A head that maps hidden states to item space, without conditioning."""

    def __init__(self, *, hidden_width: int, item_width: int) -> None:
        super().__init__()
        self.out = nn.Linear(hidden_width, item_width)

    def condition(self, outcome: Tensor, offset: Tensor) -> Tensor:
        """Zeros ``[..., 1]``, because nothing is conditioned."""
        return torch.zeros_like(outcome, dtype=self.out.weight.dtype).unsqueeze(-1)

    def conditioned(self, hidden: Tensor, condition: Tensor) -> Tensor:
        """Hidden states ``[..., H]`` → unit vectors ``[..., D]``."""
        return unit_vectors(self.out(hidden) + condition, self.out.weight.dtype)
