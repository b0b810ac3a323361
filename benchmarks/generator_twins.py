"""What ``generate`` is compared with: its twin without a cache, Hugging Face's GPT-2, and the arithmetic it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from pinrec_core.config.sections import ModelConfig
from pinrec_core.generation.generate import RequestContext, condition_of_step, fed_back, step_embeddings
from pinrec_core.model.sequence_model import HistoryBatch, SequenceModel
from pinrec_core.representations import time_features


@torch.inference_mode()
def generate_by_recomputing(
    model: SequenceModel, history: HistoryBatch, request: RequestContext, offsets: tuple[int, ...]
) -> Tensor:
    """The plain twin of ``generation.generate``, same signature: every step runs the decoder over the whole sequence.

    Histories must be of one length T, so that tokens are appended and not inserted.
    """
    B, T, _ = history.feature.shape
    if not (history.length == T).all():
        raise ValueError(f"history.length={history.length.tolist()}: expected {T} for every row")
    steps = request.feedback_outcome.shape[1] + 1
    tokens = model.history_tokens(history, model.represent_items(history))
    previous = history.timestamp[:, -1]
    condition = condition_of_step(model, offsets)
    generated = []
    for step in range(steps):
        embedding = step_embeddings(model, model.decoder(tokens)[:, -1], condition)
        generated.append(embedding)
        if step == steps - 1:
            break
        item = fed_back(embedding, request.feedback_outcome[:, step], offsets)
        token = model.tokens(item, request.surface, request.timestamp, previous)
        tokens = torch.cat([tokens, token.unsqueeze(1)], dim=1)
        previous = request.timestamp
    return torch.cat(generated, dim=2)


def gpt2_stepping(config: ModelConfig, B: int, T: int, steps: int) -> Callable[[], Tensor]:
    """Hugging Face's ``GPT2Model`` of the same size with its own cache: prefill, then one token per step.

    The backbone alone, without item embedders and head: less work than ``generate``. Raises ``ImportError`` where
    ``transformers`` is not installed.
    """
    from transformers import GPT2Config, GPT2Model

    gpt2 = GPT2Model(
        GPT2Config(
            vocab_size=1, n_positions=1 + T + steps - 1, n_embd=config.hidden_width, n_layer=config.layers,
            n_head=config.heads,
        )
    ).eval()  # fmt: skip
    tokens = torch.randn(B, 1 + T, config.hidden_width)

    @torch.inference_mode()
    def run() -> Tensor:
        answer = gpt2(inputs_embeds=tokens, use_cache=True)
        for _ in range(steps - 1):
            last = answer.last_hidden_state[:, -1:]
            answer = gpt2(inputs_embeds=last, past_key_values=answer.past_key_values, use_cache=True)
        return answer.last_hidden_state

    return run


@dataclass(frozen=True, slots=True, kw_only=True)
class MatmulFlops:
    """Floating-point operations of the matrix products that one batch cannot do without; a multiply-add counts two.

    Attention counts visible positions only, each item the one embedder of its type (a pin's), and conditioning
    nothing: it does not depend on the request.
    """

    prefill: int
    decode: int
    head: int

    @property
    def total(self) -> int:
        return self.prefill + self.decode + self.head

    @staticmethod
    def of(config: ModelConfig, *, B: int, T: int, S: int, W: int) -> MatmulFlops:
        H, D, L = config.hidden_width, config.item_width, config.layers
        O = config.num_conditions
        projection = 2 * (D * H + time_features.WIDTH * H)  # item and time → token
        block = 2 * 12 * H * H  # query, key, value: 3 H²; out: H²; MLP: 8 H²
        start = 1 + T
        seen_in_prefill = start * (start + 1) // 2
        seen_in_decode = sum(range(start + 1, start + S))
        return MatmulFlops(
            prefill=B * (T * (_embedder(config) + projection) + start * L * block + L * 4 * H * seen_in_prefill),
            decode=B * ((S - 1) * (projection + L * block) + L * 4 * H * seen_in_decode),
            head=B * S * 2 * (H * 2 * H + O * W * 2 * H * D),
        )


def _embedder(config: ModelConfig) -> int:
    """One pin through its embedder."""
    D, hidden = config.item_width, 2 * config.item_width
    widths = [config.feature_width + config.id_width, *[hidden] * (config.embedder_layers - 1), D]
    return 2 * sum(a * b for a, b in pairwise(widths))
