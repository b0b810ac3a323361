"""A causal decoder in the style of GPT-2 with an explicit K/V cache (PinRec, model).

The cache is a value: the caller allocates it, passes it in and advances it. The decoder maps token vectors to hidden
states and knows nothing of items.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONTEXT_SCALE = 0.2
"""Initial standard deviation of what position, surface and time each add to a token; the item's share has 1. If they
were as large as the item's share, the model would learn when things happened long before it learns what happened."""


@dataclass(slots=True)
class KeyValueCache:
    """Keys and values of all layers, ``[L, B, heads, P, H/heads]``, and the number of filled positions per row."""

    key: Tensor
    value: Tensor
    length: Tensor  # int64 [B]

    @staticmethod
    def allocate(decoder: Decoder, batch: int, positions: int) -> KeyValueCache:
        weight = decoder.position_embedding.weight
        shape = (len(decoder.blocks), batch, decoder.heads, positions, weight.shape[1] // decoder.heads)
        return KeyValueCache(
            key=weight.new_zeros(shape),
            value=weight.new_zeros(shape),
            length=torch.zeros(batch, dtype=torch.int64, device=weight.device),
        )

    def advance(self, tokens: Tensor | int) -> None:
        """Count ``tokens`` (int64 ``[B]``, or one number for every row) as filled.

        Padding may have written behind the filled positions. That is never read, and the next tokens overwrite it.
        """
        self.length = self.length + tokens


class Decoder(nn.Module):
    """L pre-norm blocks with learned absolute positions."""

    def __init__(self, *, layers: int, heads: int, hidden_width: int, max_positions: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.position_embedding = nn.Embedding(max_positions, hidden_width)
        self.dropout = nn.Dropout(dropout)
        blocks = [Block(heads, hidden_width, dropout) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(hidden_width)
        nn.init.normal_(self.position_embedding.weight, std=CONTEXT_SCALE)
        self.apply(_init_linear)
        for block in blocks:  # residual branches start smaller by 1/√(2L), so that depth does not change the scale
            for out in (block.attention_out, block.mlp_out):
                nn.init.normal_(out.weight, std=(2 * layers * out.in_features) ** -0.5)

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Tokens ``[B, T, H]`` → hidden states ``[B, T, H]``.

        Without a cache the tokens start at position 0. With a cache the tokens of row b continue at
        ``cache.length[b]``, and their keys and values are written there; the caller then advances the cache. Padding
        must be on the right, where causal attention hides it from all real tokens.
        """
        B, T, _ = tokens.shape
        start = tokens.new_zeros(B, dtype=torch.int64) if cache is None else cache.length
        position = start.unsqueeze(1) + torch.arange(T, device=tokens.device)  # [B, T]
        hidden = self.dropout(tokens + self.position_embedding(position))
        if cache is None:
            for block in self.blocks:
                hidden = block(hidden)
        else:
            visible = torch.arange(cache.key.shape[3], device=tokens.device) <= position.unsqueeze(-1)  # [B, T, P]
            for layer, block in enumerate(self.blocks):
                hidden = block(hidden, CacheLayer(cache.key[layer], cache.value[layer], position, visible.unsqueeze(1)))
        return self.norm(hidden)


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """One layer's part of the cache, with the positions to write to and what each new token may see."""

    key: Tensor  # [B, heads, P, H/heads]
    value: Tensor
    position: Tensor  # int64 [B, T]
    visible: Tensor  # bool [B, 1, T, P]


class Block(nn.Module):
    """Attention and MLP, each with a LayerNorm before it and a residual connection around it."""

    def __init__(self, heads: int, hidden_width: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(hidden_width)
        self.query_key_value = nn.Linear(hidden_width, 3 * hidden_width)
        self.attention_out = nn.Linear(hidden_width, hidden_width)
        self.mlp_norm = nn.LayerNorm(hidden_width)
        self.mlp_in = nn.Linear(hidden_width, 4 * hidden_width)
        self.mlp_out = nn.Linear(4 * hidden_width, hidden_width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, cache: CacheLayer | None = None) -> Tensor:
        hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden), cache))
        wide = F.gelu(self.mlp_in(self.mlp_norm(hidden)), approximate="tanh")
        return hidden + self.dropout(self.mlp_out(wide))

    def attention(self, hidden: Tensor, cache: CacheLayer | None) -> Tensor:
        B, T, H = hidden.shape
        query, key, value = (
            part.view(B, T, self.heads, H // self.heads).transpose(1, 2)
            for part in self.query_key_value(hidden).chunk(3, dim=-1)
        )
        if cache is None:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            row = torch.arange(B, device=hidden.device).unsqueeze(1)
            cache.key[row, :, cache.position] = key.transpose(1, 2)
            cache.value[row, :, cache.position] = value.transpose(1, 2)
            mixed = F.scaled_dot_product_attention(query, cache.key, cache.value, attn_mask=cache.visible)
        return self.attention_out(mixed.transpose(1, 2).reshape(B, T, H))


def _init_linear(module: nn.Module) -> None:
    """Draw weights with standard deviation 1/√inputs, so that outputs start at the scale of inputs at any width.

    GPT-2's fixed 0.02 fits a width of 2,500. At a width of 64 it would leave branches that hardly do anything.
    """
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        nn.init.zeros_(module.bias)
