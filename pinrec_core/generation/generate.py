"""Generation (PinRec, generation): prefill the history once, then decode step by step, several embeddings per step.

Each phase is a function of its own, so that a benchmark can time it and a compiler can take it as it is: ``prefill``,
``step_embeddings``, ``fed_back``, ``decode_step``. ``generate`` is all of them in order. Nothing here knows of
thresholds, quotas or the index.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pinrec_core.errors import ConfigError, require
from pinrec_core.model.decoder import KeyValueCache
from pinrec_core.model.sequence_model import HistoryBatch, SequenceModel


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """What generated tokens carry beside their embedding: the request's surface and time, and which outcome's embedding
    becomes the next token."""

    surface: Tensor  # int64 [B]
    timestamp: Tensor  # int64 [B]
    feedback_outcome: Tensor  # int64 [B, S − 1], drawn from the budget


@torch.inference_mode()
def generate(model: SequenceModel, history: HistoryBatch, request: RequestContext, offsets: tuple[int, ...]) -> Tensor:
    """→ unit embeddings ``[B, O, S·W, D]``, in generation order along the third dimension (step, then offset).

    S is ``request.feedback_outcome.shape[1] + 1``; O is the number of outcomes that the variant tells apart. Raises
    ``InvalidRequestError`` for a longer history and ``ConfigError`` for more steps or offsets than the model was made
    for.
    """
    B, T, _ = history.feature.shape
    steps = request.feedback_outcome.shape[1] + 1
    config = model.config
    require(T <= config.max_history, "T", T, f"at most max_history={config.max_history}")
    require(steps <= config.max_steps, "steps", steps, f"at most max_steps={config.max_steps}", error=ConfigError)
    require(max(offsets) <= config.max_offset, "offsets", offsets,
            f"none above max_offset={config.max_offset}", error=ConfigError)  # fmt: skip
    condition = condition_of_step(model, offsets)
    cache = KeyValueCache.allocate(model.decoder, B, 1 + T + steps - 1)

    # 1. The start token and the history go through the decoder; their keys and values stay in the cache.
    hidden = prefill(model, history, cache)
    previous = last_timestamps(history, request.timestamp)
    generated = []
    for step in range(steps):
        # 2. Every outcome at every offset: all of them are retrieval queries.
        embedding = step_embeddings(model, hidden, condition)
        generated.append(embedding)
        if step == steps - 1:
            break
        # 3. One outcome's next-item embedding becomes the next token.
        item = fed_back(embedding, request.feedback_outcome[:, step], offsets)
        hidden = decode_step(model, item, request, previous, cache)
        previous = request.timestamp
    return torch.cat(generated, dim=2)


def prefill(model: SequenceModel, history: HistoryBatch, cache: KeyValueCache) -> Tensor:
    """Read B histories into an empty cache, which is advanced: → the hidden state behind each, ``[B, H]``."""
    row = torch.arange(len(history.length), device=history.length.device)
    hidden, _ = model(history, cache)
    cache.advance(1 + history.length)
    return hidden[row, history.length]


def condition_of_step(model: SequenceModel, offsets: tuple[int, ...]) -> Tensor:
    """What the head adds for every outcome at every offset, ``[1, O, W, 2H]``: no request or step changes it."""
    device = model.start_token.device
    outcome = torch.arange(model.config.num_conditions, device=device).view(1, -1, 1)
    offset = torch.tensor(offsets, device=device).view(1, 1, -1)
    return model.head.condition(*torch.broadcast_tensors(outcome, offset))


def step_embeddings(model: SequenceModel, hidden: Tensor, condition: Tensor) -> Tensor:
    """Hidden states ``[B, H]`` and the ``condition`` of a step → the step's embeddings, ``[B, O, W, D]``."""
    return model.head.conditioned(hidden[:, None, None, :], condition)


def fed_back(embedding: Tensor, outcome: Tensor, offsets: tuple[int, ...]) -> Tensor:
    """The next-item embedding of one ``outcome``, int64 ``[B]``, per row of a step's ``[B, O, W, D]``: ``[B, D]``.

    It lives in item space already, so it stands for the item that the user would act on next.
    """
    row = torch.arange(len(embedding), device=embedding.device)
    return embedding[row, outcome, offsets.index(1)]


def decode_step(
    model: SequenceModel, item: Tensor, request: RequestContext, previous_timestamp: Tensor, cache: KeyValueCache
) -> Tensor:
    """One token more: an item ``[B, D]`` behind what the cache holds, which is advanced → its hidden state ``[B, H]``.

    ``previous_timestamp`` int64 ``[B]`` is the time of the token before it.
    """
    token = model.tokens(item, request.surface, request.timestamp, previous_timestamp)
    hidden = model.decoder(token.unsqueeze(1), cache)[:, 0]
    cache.advance(1)
    return hidden


def last_timestamps(history: HistoryBatch, request_time: Tensor) -> Tensor:
    """When each user last acted, int64 ``[B]``; the request's own time for a user without history."""
    if history.timestamp.shape[1] == 0:
        return request_time
    last = history.timestamp.gather(1, (history.length - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
    return torch.where(history.length > 0, last, request_time)
