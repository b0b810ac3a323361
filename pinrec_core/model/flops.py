"""Floating-point operations (FLOPs) of a model's matrix products in the forward pass, counted from its configuration.

A multiply-add counts as two. Everything else (normalisation, activations, softmax, table look-ups) is left out: it is
little beside the products. Training measures its utilisation by these counts, and the generator's benchmark its floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from pinrec_core.config.sections import ModelConfig, Variant
from pinrec_core.representations import time_features


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardFlops:
    """FLOPs of each part of one model, for one use of it. A part that the variant lacks costs 0."""

    embed_pin: int = 0  # one pin through its item embedder
    embed_query: int = 0  # one query through its own
    project_item: int = 0  # one item representation to its share of a token
    project_time: int = 0  # the time features of one interaction to their share of a token
    layers: int = 0  # one token through the linear layers of all blocks
    attend: int = 0  # one token to one visible position, in all blocks
    blocks: int = 1  # what shares the two before evenly
    key_value: int = 0  # the keys and values of one token, in one block
    read_hidden: int = 0  # the head's product with one hidden state, the same for every condition
    answer: int = 0  # the head's product for one hidden state under one condition
    score: int = 0  # one inner product in item space

    @staticmethod
    def of(config: ModelConfig) -> ForwardFlops:
        if config.variant is Variant.DOT_PRODUCT:  # it has no weights but its tables, and items are ID embeddings
            return ForwardFlops(score=2 * config.id_width)
        H, D, L = config.hidden_width, config.item_width, config.layers
        layers = 2 * L * 12 * H * H  # query, key and value: 3 H²; attention's output: H²; MLP: 8 H²
        attend = 2 * L * 2 * H  # query with key, weight with value
        if config.variant is Variant.SASREC:
            return ForwardFlops(
                project_item=2 * D * H, layers=layers, attend=attend, blocks=L, key_value=2 * 2 * H * H,
                answer=2 * H * D, score=2 * D,
            )  # fmt: skip
        return ForwardFlops(
            embed_pin=_embedder(config, config.feature_width + config.id_width),
            embed_query=_embedder(config, config.feature_width),
            project_item=2 * D * H,
            project_time=2 * time_features.WIDTH * H,
            layers=layers,
            attend=attend,
            blocks=L,
            key_value=2 * 2 * H * H,
            read_hidden=2 * H * 2 * H,
            answer=2 * 2 * H * D,
            score=2 * D,
        )

    def decode(self, tokens: int, *, cached: int = 0) -> int:
        """``tokens`` tokens of one row through the decoder, behind ``cached`` earlier ones in the K/V cache.

        Attention is causal: a token sees itself and all that came before.
        """
        visible = tokens * cached + tokens * (tokens + 1) // 2
        return tokens * self.layers + visible * self.attend

    def prefill(self, tokens: int) -> int:
        """``tokens`` tokens of one row through the decoder, when only the last one's hidden state is wanted.

        The last block then computes keys and values of all tokens, and everything else for one.
        """
        last = (
            tokens * self.key_value + self.layers // self.blocks - self.key_value + tokens * self.attend // self.blocks
        )
        return self.decode(tokens) * (self.blocks - 1) // self.blocks + last


def _embedder(config: ModelConfig, input_width: int) -> int:
    D = config.item_width
    widths = [input_width, *[2 * D] * (config.embedder_layers - 1), D]
    return 2 * sum(a * b for a, b in pairwise(widths))
