"""What ``generate`` is compared with: its twin without a cache, Hugging Face's GPT-2, and the FLOPs that it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pinrec_core.config.sections import ModelConfig
from pinrec_core.generation.generate import RequestContext, condition_of_step, fed_back, step_embeddings
from pinrec_core.model.flops import ForwardFlops
from pinrec_core.model.packed_histories import PackedHistories
from pinrec_core.model.sequence_model import SequenceModel

if TYPE_CHECKING:
    from transformers import GPT2Model


@torch.inference_mode()
def generate_by_recomputing(
    model: SequenceModel, history: PackedHistories, request: RequestContext, offsets: tuple[int, ...]
) -> Tensor:
    """The plain twin of ``generation.generate``, with the same signature, but without a K/V cache.

    Every step runs the decoder over the whole sequence. All histories must have the same length T, so that new tokens
    can be appended at the end. Raises ``ValueError`` otherwise.
    """
    B, P = history.layout.token.shape
    lengths = history.layout.position[history.layout.last]
    if not (lengths == P - 1).all():
        raise ValueError(f"histories of {lengths.tolist()} items: expected {P - 1} for every row")
    steps = request.feedback_outcome.shape[1] + 1
    tokens = model.packed_tokens(history).unflatten(0, (B, P))
    previous = history.timestamp[history.layout.last]
    condition = condition_of_step(model, offsets)
    generated = []
    for step in range(steps):
        embedding = step_embeddings(model, model.decoder(tokens)[:, -1], condition, request.strength)
        generated.append(embedding)
        if step == steps - 1:
            break
        item = fed_back(embedding, request.feedback_outcome[:, step], offsets)
        token = model.tokens(item, request.surface, request.timestamp, previous)
        tokens = torch.cat([tokens, token.unsqueeze(1)], dim=1)
        previous = request.timestamp
    return torch.cat(generated, dim=2)


def gpt2_stepping(config: ModelConfig, B: int, T: int, steps: int) -> Callable[[], Tensor]:
    """Hugging Face's ``GPT2Model`` of the same size, with its own cache: prefill, then one token per step.

    This is the decoder alone, without item embedders and head, so it has less work than ``generate``. Raises
    ``ImportError`` where ``transformers`` is not installed.
    """
    gpt2 = _gpt2(config, positions=T + steps)
    tokens = torch.randn(B, 1 + T, config.hidden_width)

    @torch.inference_mode()
    def run() -> Tensor:
        answer = gpt2(inputs_embeds=tokens, use_cache=True)
        for _ in range(steps - 1):
            last = answer.last_hidden_state[:, -1:]
            answer = gpt2(inputs_embeds=last, past_key_values=answer.past_key_values, use_cache=True)
        return answer.last_hidden_state

    return run


def gpt2_static(
    config: ModelConfig, B: int, T: int, steps: int, *, device: torch.device, dtype: torch.dtype, **how: object
) -> Callable[[], Tensor]:
    """The same on a GPU at its best: a cache of fixed size, and ``torch.compile`` with its own CUDA graphs.

    ``how`` goes to ``torch.compile`` in place of that. Raises ``ImportError`` where ``transformers`` is not installed.
    """
    from transformers import StaticCache

    gpt2 = _gpt2(config, positions=T + steps).to(device, dtype)
    compiled = torch.compile(gpt2, dynamic=False, **(how or {"mode": "reduce-overhead"}))
    cache = StaticCache(config=gpt2.config, max_cache_len=T + steps)
    tokens = torch.randn(B, 1 + T, config.hidden_width, device=device, dtype=dtype)
    position = torch.arange(T + steps, device=device).expand(B, -1).contiguous()

    def step(tokens: Tensor, position: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # the next run may overwrite what this one returns, hence the copy
        answer = compiled(inputs_embeds=tokens, position_ids=position, past_key_values=cache, use_cache=True)
        return answer.last_hidden_state[:, -1:].clone()

    @torch.no_grad()
    def run() -> Tensor:
        cache.reset()
        last = step(tokens, position[:, : 1 + T])
        for number in range(1, steps):
            last = step(last, position[:, T + number : T + number + 1])
        return last.cpu()  # waits for the device

    return run


def _gpt2(config: ModelConfig, *, positions: int) -> GPT2Model:
    from transformers import GPT2Config, GPT2Model

    return GPT2Model(
        GPT2Config(
            vocab_size=1, n_positions=positions, n_embd=config.hidden_width, n_layer=config.layers,
            n_head=config.heads,
        )
    ).eval()  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class MatmulFlops:
    """FLOPs of the matrix products that ``generate`` needs for one batch, by phase: its floor.

    Each item is counted as a pin, which goes through one embedder. Attention counts visible positions only. Two things
    are left out: the conditioning, which does not depend on the request, and the start token's time.
    """

    prefill: int
    decode: int
    head: int

    @property
    def total(self) -> int:
        return self.prefill + self.decode + self.head

    @staticmethod
    def of(config: ModelConfig, *, B: int, T: int, S: int, W: int) -> MatmulFlops:
        """B histories of T items, S steps and W embeddings per step and outcome.

        What an outcome-conditioned model says without an outcome, from which it steers, is no part of the floor.
        """
        flops = ForwardFlops.of(config)
        token = flops.project_item + flops.project_time
        return MatmulFlops(
            prefill=B * (T * (flops.embed_pin + token) + flops.prefill(1 + T)),
            decode=B * ((S - 1) * token + flops.decode(S - 1, cached=1 + T)),
            head=B * S * (flops.read_hidden + config.num_conditions * W * flops.answer),
        )
