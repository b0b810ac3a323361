"""A causal decoder in the style of GPT-2 (PinRec, model): a plain pass for training, prefill and steps for generation.

The decoder maps token vectors to hidden states and knows nothing of items. What a generated token sees of the tokens
before it is a value, ``DecoderState``, which each step returns anew. Nothing depends on data: every shape follows from
the inputs' shapes, so that the whole of a generation can be compiled as one program.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinrec_core.model.linear import Linear

CONTEXT_SCALE = 0.2
"""Initial standard deviation of what position, surface and time each add to a token; the item's share has 1. If they
were as large as the item's share, the model would learn when things happened long before it learns what happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedLayout:
    """Where the N tokens of a packed batch of B rows lie in the padded layout ``[B, P]`` of attention, and back."""

    position: Tensor  # int64 [N], of each token in its row
    token: Tensor  # int64 [B, P], the token that each slot holds; behind a row's end, any token of the batch
    slot: Tensor  # int64 [N], the slot b · P + position of each token
    last: Tensor  # int64 [B], the last token of each row


@dataclass(frozen=True, slots=True)
class KeyValueCache:
    """One layer's keys and values: of the prefilled tokens, and of those that were generated behind them.

    The two are kept apart, so that a step copies nothing of the prefill and needs no position to write to.
    """

    key: Tensor  # [B, heads, P, H/heads]; what lies behind the end of a row is never read
    value: Tensor
    generated_key: list[Tensor]  # of each step, [B, heads, 1, H/heads]
    generated_value: list[Tensor]


@dataclass(frozen=True, slots=True)
class DecoderState:
    """What the next token of each row sees, and where it stands."""

    caches: list[KeyValueCache]  # of each layer
    visible: Tensor  # bool [B, 1, 1, P], which of the prefilled slots belong to the row
    position: Tensor  # int64 [B], of the next token


class Decoder(nn.Module):
    """L pre-norm blocks with learned absolute positions."""

    def __init__(self, *, layers: int, heads: int, hidden_width: int, max_positions: int, dropout: float) -> None:
        super().__init__()
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

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``[B, T, H]`` from position 0 → hidden states ``[B, T, H]``.

        Padding must be on the right, where causal attention hides it from all real tokens.
        """
        position = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.dropout(tokens + self.position_embedding(position))
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)

    def prefill(self, tokens: Tensor, layout: PackedLayout) -> tuple[Tensor, DecoderState]:
        """A packed batch of tokens ``[N, H]`` → the hidden state of each row's last one ``[B, H]``, and the state.

        The last layer computes keys and values of all tokens, and everything else for the last tokens alone.
        """
        hidden = tokens + self.position_embedding(layout.position)
        length = layout.position[layout.last] + 1
        slots = torch.arange(layout.token.shape[1], device=tokens.device)
        visible = (slots < length.unsqueeze(1))[:, None, None, :]
        caches = []
        *others, last = self._layers()
        for block in others:
            hidden, cache = block.prefill(hidden, layout)
            caches.append(cache)
        hidden, cache = last.prefill_last(hidden, layout, visible)
        return self.norm(hidden), DecoderState([*caches, cache], visible, length)

    def step(self, token: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """One token more per row, ``[B, H]`` → its hidden state ``[B, H]``, and the state behind it."""
        hidden = token + self.position_embedding(state.position)
        caches = []
        for block, cache in zip(self._layers(), state.caches, strict=True):
            hidden, cache = block.step(hidden, cache, state.visible)
            caches.append(cache)
        return self.norm(hidden), DecoderState(caches, state.visible, state.position + 1)

    def attend_densely(self) -> None:
        """Let prefill hold all attention scores of a layer at once, which is faster where it is compiled in BF16."""
        for block in self._layers():
            block.attend = _attend_dense

    def _layers(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))


class Block(nn.Module):
    """Attention and MLP, each with a LayerNorm before it and a residual connection around it."""

    def __init__(self, heads: int, hidden_width: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(hidden_width)
        self.query_key_value = Linear(hidden_width, 3 * hidden_width)
        self.attention_out = Linear(hidden_width, hidden_width)
        self.mlp_norm = nn.LayerNorm(hidden_width)
        self.mlp_in = Linear(hidden_width, 4 * hidden_width)
        self.mlp_out = Linear(4 * hidden_width, hidden_width)
        self.dropout = nn.Dropout(dropout)
        self.attend = _attend_flash
        """How prefill attends: with FlashAttention, or with ``Decoder.attend_densely``."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states ``[B, T, H]`` → the same shape, with causal attention over T."""
        query, key, value = self._heads(self.query_key_value(self._normed(hidden)), 3)
        return self._after_attention(hidden, _attend_flash(query, key, value).transpose(1, 2).flatten(2))

    def prefill(self, hidden: Tensor, layout: PackedLayout) -> tuple[Tensor, KeyValueCache]:
        """Hidden states of a packed batch, ``[N, H]`` → the same shape, and the layer's cache."""
        query, key, value = self._heads(self.query_key_value(self._normed(hidden))[layout.token], 3)
        mixed = self.attend(query, key, value)
        packed = mixed.transpose(1, 2).flatten(2).flatten(0, 1)[layout.slot]
        return self._after_attention(hidden, packed), KeyValueCache(key, value, [], [])

    def prefill_last(self, hidden: Tensor, layout: PackedLayout, visible: Tensor) -> tuple[Tensor, KeyValueCache]:
        """Hidden states ``[N, H]`` → those of each row's last token ``[B, H]``, and the cache of all tokens."""
        H = hidden.shape[1]
        normed = self._normed(hidden)
        key, value = self._heads(self.query_key_value.part(normed, H, 3 * H)[layout.token], 2)
        (query,) = self._heads(self.query_key_value.part(normed[layout.last], 0, H).unsqueeze(1), 1)
        cache = KeyValueCache(key, value, [], [])
        return self._after_attention(hidden[layout.last], _attend(query, cache, visible)), cache

    def step(self, hidden: Tensor, cache: KeyValueCache, visible: Tensor) -> tuple[Tensor, KeyValueCache]:
        """Hidden states of one token per row, ``[B, H]`` → the same shape, and the cache with that token."""
        query, key, value = self._heads(self.query_key_value(self._normed(hidden)).unsqueeze(1), 3)
        cache = KeyValueCache(cache.key, cache.value, [*cache.generated_key, key], [*cache.generated_value, value])
        return self._after_attention(hidden, _attend(query, cache, visible)), cache

    def _normed(self, hidden: Tensor) -> Tensor:
        """The input of attention, in the format of the weights: the residual stream may be FP32 beside BF16 weights."""
        return self.attention_norm(hidden).to(self.query_key_value.input_dtype)

    def _heads(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """``[B, T, parts · H]`` → ``parts`` tensors ``[B, heads, T, H/heads]``."""
        B, T, width = projected.shape
        split = projected.view(B, T, parts, self.heads, width // parts // self.heads)
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    def _after_attention(self, hidden: Tensor, mixed: Tensor) -> Tensor:
        hidden = hidden + self.dropout(self.attention_out(mixed))
        normed = self.mlp_norm(hidden).to(self.mlp_in.input_dtype)
        wide = F.gelu(self.mlp_in(normed), approximate="tanh")
        return hidden + self.dropout(self.mlp_out(wide))


def _attend_flash(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention ``[B, heads, P, H/heads]`` → the same shape, without ever holding all scores."""
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def _attend_dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same from two products, with all scores ``[B, heads, P, P]`` in between; a compiler fuses what else there is.

    torch's FlashAttention for the CPU reaches a sixth of the rate of a product in BF16. The price is memory.
    """
    score = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    place = torch.arange(score.shape[-1], device=score.device)
    weight = score.float().masked_fill(place > place.unsqueeze(1), -torch.inf).softmax(-1)
    return weight.to(value.dtype) @ value


def _attend(query: Tensor, cache: KeyValueCache, visible: Tensor) -> Tensor:
    """Attention of one token per row, ``[B, heads, 1, H/heads]``, to its cache → ``[B, H]``.

    The scores of prefilled and generated tokens meet in one softmax, in FP32.
    """
    query = query * query.shape[-1] ** -0.5
    history = (query @ cache.key.transpose(-1, -2)).float().masked_fill(~visible, -torch.inf)
    generated = [(query * key).float().sum(-1, keepdim=True) for key in cache.generated_key]
    weight = torch.cat([history, *generated], dim=-1).softmax(-1).to(query.dtype)
    mixed = weight[..., : cache.key.shape[2]] @ cache.value
    for number, value in enumerate(reversed(cache.generated_value), 1):
        mixed = mixed + weight[..., -number, None] * value
    return mixed.flatten(1)


def _init_linear(module: nn.Module) -> None:
    """Draw weights with standard deviation 1/√inputs, so that outputs start at the scale of inputs at any width.

    GPT-2's fixed 0.02 fits a width of 2,500. At a width of 64 it would leave branches that hardly do anything.
    """
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        nn.init.zeros_(module.bias)
