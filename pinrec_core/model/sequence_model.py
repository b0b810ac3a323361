"""What the rest of the project needs from a model, whatever its inputs are.

The objective trains an ``ItemModel``, which has item representations, a hidden state per position and a head.
Generation and the index need a ``SequenceModel``, whose hidden states come from tokens through a decoder. ``PinRec``
and ``SASRec`` are sequence models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from pinrec_core.config.sections import ModelConfig
from pinrec_core.model.decoder import Decoder
from pinrec_core.model.packed_histories import PackedHistories
from pinrec_core.representations import time_features
from pinrec_core.representations.id_embedding import HashedIdEmbedding


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryBatch:
    """B histories, padded on the right to T positions. Row b holds ``length[b]`` interactions; the rest is ignored.

    Features stay INT8 until the model dequantises them on its device. ``id_embedding`` comes from the ID embedder.
    Search queries have no ID table, so PinRec ignores their ID embeddings.
    """

    feature: Tensor  # int8 [B, T, F]
    scale: Tensor  # float [B, T]
    id_embedding: Tensor  # float [B, T, I]
    item_type: Tensor  # int64 [B, T]
    surface: Tensor  # int64 [B, T]
    timestamp: Tensor  # int64 [B, T]
    length: Tensor  # int64 [B]
    start_surface: Tensor  # int64 [B], surface and time of the start token
    start_timestamp: Tensor  # int64 [B]

    def to(self, device: torch.device | str) -> HistoryBatch:
        return HistoryBatch(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})


class ConditionedHead(nn.Module, ABC):
    """Maps hidden states and a conditioning to item space."""

    def forward(self, hidden: Tensor, outcome: Tensor, offset: Tensor) -> Tensor:
        """Hidden states ``[..., H]``, outcomes and offsets (δ ≥ 1) ``[...]`` → unit vectors ``[..., D]``.

        Leading dimensions broadcast: ``[B, 1, H]`` against ``[1, O]`` gives every outcome of every row.
        """
        return self.conditioned(hidden, self.condition(outcome, offset))

    @abstractmethod
    def condition(self, outcome: Tensor, offset: Tensor) -> Tensor:
        """What the conditioning adds. It is the same for all requests and steps."""

    @abstractmethod
    def conditioned(self, hidden: Tensor, condition: Tensor) -> Tensor:
        """As ``forward``, with the result of ``condition``."""


def inverse_of(token_projection: nn.Linear) -> Tensor:
    """Weights ``[D, H]`` that map a fresh model's token back to the item that it was made of."""
    return token_projection.weight.T / max(token_projection.weight.shape)


class ItemModel(nn.Module, ABC):
    """ID tables, item representations, a hidden state per position, and a head back into the items' space."""

    head: ConditionedHead

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.id_embedding = HashedIdEmbedding(width=config.id_width, hashes=config.id_hashes, rows=config.id_rows)
        self.id_dropout = nn.Dropout(config.id_dropout)

    def item_space_modules(self) -> dict[str, nn.Module]:
        """The modules that decide which vector an item has, by attribute name. A release's identity covers them."""
        return {"id_embedding": self.id_embedding}

    @abstractmethod
    def represent_pins(self, feature: Tensor, scale: Tensor, id_embedding: Tensor) -> Tensor:
        """INT8 content ``[..., F]`` with scales ``[...]`` and ID embeddings ``[..., I]`` → item space ``[..., D]``."""

    @abstractmethod
    def forward(self, batch: HistoryBatch) -> tuple[Tensor, Tensor]:
        """→ hidden states ``[B, 1 + T, H]`` and item representations ``[B, T, D]``.

        Hidden state t has seen the start token and the first t items, and predicts item t (counting from 0).
        """


class SequenceModel(ItemModel):
    """A model whose hidden states come from a causal decoder over tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.start_token = nn.Parameter(torch.zeros(config.hidden_width))
        self.token_projection = nn.Linear(config.item_width, config.hidden_width)
        self.decoder = Decoder(
            layers=config.layers, heads=config.heads, hidden_width=config.hidden_width,
            max_positions=config.max_positions, dropout=config.dropout,
        )  # fmt: skip
        # A scaled rotation: the elements of a token have a standard deviation of about 1, and a head can start with the
        # inverse.
        nn.init.orthogonal_(self.token_projection.weight, gain=max(config.hidden_width, config.item_width) ** 0.5)
        nn.init.zeros_(self.token_projection.bias)
        nn.init.normal_(self.start_token, std=1.0)

    @abstractmethod
    def represent_items(self, batch: HistoryBatch | PackedHistories) -> Tensor:
        """A batch's pins and queries → item space, ``[B, T, D]`` or packed ``[N, D]``."""

    @abstractmethod
    def context(self, surface: Tensor, timestamp: Tensor, previous_timestamp: Tensor) -> Tensor:
        """Surface and time ``[...]`` → what they add to a token, ``[..., H]`` or a tensor that broadcasts to it."""

    def tokens(self, item: Tensor, surface: Tensor, timestamp: Tensor, previous_timestamp: Tensor) -> Tensor:
        """Item representations ``[..., D]`` with surface and time ``[...]`` → decoder tokens ``[..., H]``."""
        return self.token_projection(item) + self.context(surface, timestamp, previous_timestamp)

    def history_tokens(self, batch: HistoryBatch, item: Tensor) -> Tensor:
        """Tokens ``[B, 1 + T, H]``: the learned start token, then the history ``item`` ``[B, T, D]``.

        The start token means "no history yet" and has the surface and time of what comes next. A user without history
        is therefore an ordinary row of length 0.
        """
        start = self.start_token + self.context(batch.start_surface, batch.start_timestamp, batch.start_timestamp)
        previous = time_features.previous_timestamps(batch.timestamp)
        tokens = self.tokens(item, batch.surface, batch.timestamp, previous)
        return torch.cat([start.expand(len(item), -1).unsqueeze(1), tokens], dim=1)

    def packed_tokens(self, batch: PackedHistories) -> Tensor:
        """The same tokens without padding, ``[N, H]``."""
        item = self.token_projection(self.represent_items(batch))
        is_start = (batch.layout.position == 0).unsqueeze(-1)
        context = self.context(batch.surface, batch.timestamp, batch.previous_timestamp)
        return torch.where(is_start, self.start_token, item) + context

    def forward(self, batch: HistoryBatch) -> tuple[Tensor, Tensor]:
        item = self.represent_items(batch)
        return self.decoder(self.history_tokens(batch, item)), item
