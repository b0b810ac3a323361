"""Generation (PinRec, generation): prefill the history once, then decode step by step, several embeddings per step.

``generate`` is the whole; it knows nothing of thresholds, budgets or the index.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pinrec_core.decoder import KeyValueCache
from pinrec_core.errors import ConfigError, require
from pinrec_core.sequence_model import HistoryBatch, SequenceModel


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """What generated tokens carry beside their embedding: the request's surface and time, and whose turn it is to
    feed back."""

    surface: Tensor  # int64 [B]
    timestamp: Tensor  # int64 [B]
    feedback_outcome: Tensor  # int64 [B, S − 1], drawn from the budget


def draw_feedback_outcomes(budget: np.ndarray, steps: int, seed: int) -> np.ndarray:
    """Outcomes that feed back after each step but the last, drawn from one request's budget ``[O]``: int64 ``[S − 1]``.

    Per request and from its own seed, so that a request is answered alike whatever batch it lands in.
    """
    return np.random.default_rng(seed).choice(len(budget), size=steps - 1, p=budget / budget.sum())


@torch.inference_mode()
def generate(model: SequenceModel, history: HistoryBatch, request: RequestContext, offsets: tuple[int, ...]) -> Tensor:
    """→ unit embeddings ``[B, O, S·W, D]``, in generation order along the third dimension (step, then offset).

    S is ``request.feedback_outcome.shape[1] + 1``; O is the number of outcomes that the variant tells apart.
    """
    B, T, _ = history.feature.shape
    steps = request.feedback_outcome.shape[1] + 1
    config = model.config
    require(T <= config.max_history, "T", T, f"at most max_history={config.max_history}")
    require(steps <= config.max_steps, "steps", steps, f"at most max_steps={config.max_steps}", error=ConfigError)
    require(max(offsets) <= config.max_offset, "offsets", offsets,
            f"none above max_offset={config.max_offset}", error=ConfigError)  # fmt: skip
    row = torch.arange(B, device=history.length.device)
    condition = condition_of_step(model, offsets)
    cache = KeyValueCache.allocate(model.decoder, B, 1 + T + steps - 1)

    # 1. Prefill: the start token and the history, their keys and values kept.
    hidden, _ = model(history, cache)
    cache.advance(1 + history.length)
    hidden = hidden[row, history.length]
    previous = _last_timestamp(history, request)

    generated = []
    for step in range(steps):
        # 2. Every outcome at every offset: all of them are retrieval queries.
        embedding = model.head.conditioned(hidden[:, None, None, :], condition)  # [B, O, W, D]
        generated.append(embedding)
        if step == steps - 1:
            break
        # 3. One outcome's next-item embedding feeds back; it already lives in item space.
        fed_back = embedding[row, request.feedback_outcome[:, step], offsets.index(1)]
        token = model.tokens(fed_back, request.surface, request.timestamp, previous)
        hidden = model.decoder(token.unsqueeze(1), cache)[:, 0]
        cache.advance(1)
        previous = request.timestamp
    return torch.cat(generated, dim=2)


def condition_of_step(model: SequenceModel, offsets: tuple[int, ...]) -> Tensor:
    """What the head adds for every outcome at every offset, ``[1, O, W, 2H]``: no request or step changes it."""
    device = model.start_token.device
    outcome = torch.arange(model.config.num_conditions, device=device).view(1, -1, 1)
    offset = torch.tensor(offsets, device=device).view(1, 1, -1)
    return model.head.condition(*torch.broadcast_tensors(outcome, offset))


def embeddings_of_step(model: SequenceModel, hidden: Tensor, offsets: tuple[int, ...]) -> Tensor:
    """Hidden states ``[B, H]`` → ``[B, O, W, D]``: one step on its own."""
    return model.head.conditioned(hidden[:, None, None, :], condition_of_step(model, offsets))


def _last_timestamp(history: HistoryBatch, request: RequestContext) -> Tensor:
    """When each user last acted, int64 ``[B]``; the request's own time for a user without history."""
    if history.timestamp.shape[1] == 0:
        return request.timestamp
    last = history.timestamp.gather(1, (history.length - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
    return torch.where(history.length > 0, last, request.timestamp)
