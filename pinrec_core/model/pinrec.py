"""The PinRec model: from items to tokens, from tokens to hidden states, and from these to embeddings in item space.

Training calls ``forward``; ``pinrec_core.generation.generate`` calls the parts. The model knows nothing of losses,
budgets or the index.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pinrec_core.config.sections import ModelConfig
from pinrec_core.history import ItemType
from pinrec_core.model.decoder import CONTEXT_SCALE
from pinrec_core.model.output_head import OutputHead
from pinrec_core.model.packed_histories import PackedHistories
from pinrec_core.model.sequence_model import HistoryBatch, SequenceModel
from pinrec_core.representations import time_features
from pinrec_core.representations.item_embedder import ItemEmbedder
from pinrec_core.representations.quantization import dequantize


class PinRec(SequenceModel):
    """Item embedders, decoder and output head for one ``ModelConfig``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.pin_embedder = ItemEmbedder(
            input_width=config.feature_width + config.id_width,
            item_width=config.item_width,
            layers=config.embedder_layers,
        )
        self.query_embedder = ItemEmbedder(
            input_width=config.feature_width, item_width=config.item_width, layers=config.embedder_layers
        )
        self.surface_embedding = nn.Embedding(config.num_surfaces, config.hidden_width)
        self.time_projection = nn.Linear(time_features.WIDTH, config.hidden_width)
        self.head = OutputHead(
            hidden_width=config.hidden_width, item_width=config.item_width,
            num_conditions=config.head_conditions, max_offset=config.max_offset,
        )  # fmt: skip
        self.head.start_as_inverse(self.token_projection)
        nn.init.normal_(self.surface_embedding.weight, std=CONTEXT_SCALE)
        # The features are sines and cosines, whose squares sum to about WIDTH / 2.
        nn.init.normal_(self.time_projection.weight, std=CONTEXT_SCALE / (time_features.WIDTH / 2) ** 0.5)
        nn.init.zeros_(self.time_projection.bias)

    def item_space_modules(self) -> dict[str, nn.Module]:
        embedders = {"pin_embedder": self.pin_embedder, "query_embedder": self.query_embedder}
        return super().item_space_modules() | embedders

    def represent_pins(self, feature: Tensor, scale: Tensor, id_embedding: Tensor) -> Tensor:
        """INT8 content ``[..., F]`` with scales ``[...]`` and ID embeddings ``[..., I]`` → item space ``[..., D]``."""
        content = self._dequantize(feature, scale)
        return self.pin_embedder(torch.cat([content, self.id_dropout(id_embedding.to(content.dtype))], dim=-1))

    def represent_items(self, batch: HistoryBatch | PackedHistories) -> Tensor:
        """Both embedders run on every position, because static shapes cost less than gathering each type's items."""
        pin = self.represent_pins(batch.feature, batch.scale, batch.id_embedding)
        query = self.query_embedder(self._dequantize(batch.feature, batch.scale))
        return torch.where((batch.item_type == ItemType.QUERY.value).unsqueeze(-1), query, pin)

    def _dequantize(self, feature: Tensor, scale: Tensor) -> Tensor:
        dtype = self.start_token.dtype
        return dequantize(feature.to(dtype), scale.to(dtype))

    def context(self, surface: Tensor, timestamp: Tensor, previous_timestamp: Tensor) -> Tensor:
        time = time_features.time_features(timestamp, previous_timestamp).to(self.start_token.dtype)
        return self.surface_embedding(surface) + self.time_projection(time)
