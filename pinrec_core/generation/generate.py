"""Generation (PinRec, generation): prefill the history once, then decode step by step, several embeddings per step.

Each phase is a function of its own, so that a benchmark can time it and a compiler can take it as it is: ``prefill``,
``step_embeddings``, ``fed_back``, ``decode_step``. ``generate`` is all of them in order. Nothing here knows of
thresholds, quotas or the index.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pinrec_core.config.sections import ModelConfig
from pinrec_core.errors import ConfigError, require
from pinrec_core.model.decoder import DecoderState
from pinrec_core.model.packed_histories import PackedHistories
from pinrec_core.model.sequence_model import SequenceModel
from pinrec_core.representations.item_embedder import unit_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """What generated tokens carry beside their embedding: the request's surface and time, and which outcome's embedding
    becomes the next token."""

    surface: Tensor  # int64 [B]
    timestamp: Tensor  # int64 [B]
    strength: Tensor  # float32 [B, O], of each outcome's steering
    feedback_outcome: Tensor  # int64 [B, S − 1], drawn from the budget

    def tensors(self) -> tuple[Tensor, ...]:
        """All of it, in the order in which ``of`` takes it."""
        return self.surface, self.timestamp, self.strength, self.feedback_outcome

    @staticmethod
    def of(surface: Tensor, timestamp: Tensor, strength: Tensor, feedback_outcome: Tensor) -> RequestContext:
        """From what ``tensors`` returns."""
        return RequestContext(
            surface=surface, timestamp=timestamp, strength=strength, feedback_outcome=feedback_outcome
        )  # fmt: skip

    def to(self, device: torch.device | str) -> RequestContext:
        return RequestContext.of(*(tensor.to(device) for tensor in self.tensors()))


@torch.inference_mode()
def generate(
    model: SequenceModel, history: PackedHistories, request: RequestContext, offsets: tuple[int, ...]
) -> Tensor:
    """→ unit embeddings ``[B, O, S·W, D]``, in generation order along the third dimension (step, then offset).

    S is ``request.feedback_outcome.shape[1] + 1``; O is the number of outcomes that the variant tells apart. Raises
    ``InvalidRequestError`` for a longer history and ``ConfigError`` for more steps or offsets than the model was made
    for.
    """
    T, steps = history.layout.token.shape[1] - 1, request.feedback_outcome.shape[1] + 1
    require(T <= model.config.max_history, "T", T, f"at most max_history={model.config.max_history}")
    require_generates(model.config, steps, offsets)
    return generated(model, history, request, offsets, condition_of_step(model, offsets))


def require_generates(config: ModelConfig, steps: int, offsets: tuple[int, ...]) -> None:
    """Raises ``ConfigError`` for more steps or offsets than a model was made for."""
    require(steps <= config.max_steps, "steps", steps, f"at most max_steps={config.max_steps}", error=ConfigError)
    require(max(offsets) <= config.max_offset, "offsets", offsets,
            f"none above max_offset={config.max_offset}", error=ConfigError)  # fmt: skip


def generated(
    model: SequenceModel, history: PackedHistories, request: RequestContext, offsets: tuple[int, ...], condition: Tensor
) -> Tensor:
    """All phases in order: what ``generate`` returns. It looks at shapes alone, so a compiler can take all of it."""
    steps = request.feedback_outcome.shape[1] + 1
    # 1. The start token and the history go through the decoder; their keys and values stay in its state.
    hidden, state = prefill(model, history)
    previous = history.timestamp[history.layout.last]
    parts = []
    for step in range(steps):
        # 2. Every outcome at every offset: all of them are retrieval queries.
        embedding = step_embeddings(model, hidden, condition, request.strength)
        parts.append(embedding)
        if step == steps - 1:
            break
        # 3. One outcome's next-item embedding becomes the next token.
        item = fed_back(embedding, request.feedback_outcome[:, step], offsets)
        hidden, state = decode_step(model, item, request, previous, state)
        previous = request.timestamp
    return torch.cat(parts, dim=2)


def prefill(model: SequenceModel, history: PackedHistories) -> tuple[Tensor, DecoderState]:
    """Read B histories: → the hidden state behind each, ``[B, H]``, and the decoder's state."""
    return model.decoder.prefill(model.packed_tokens(history), history.layout)


def condition_of_step(model: SequenceModel, offsets: tuple[int, ...]) -> Tensor:
    """What the head adds for every condition at every offset, ``[1, C, W, 2H]``: no request or step changes it."""
    device = model.start_token.device
    outcome = torch.arange(model.config.head_conditions, device=device).view(1, -1, 1)
    offset = torch.tensor(offsets, device=device).view(1, 1, -1)
    return model.head.condition(*torch.broadcast_tensors(outcome, offset))


def step_embeddings(model: SequenceModel, hidden: Tensor, condition: Tensor, strength: Tensor) -> Tensor:
    """Hidden states ``[B, H]``, the ``condition`` of a step and strengths ``[B, O]`` → the step's embeddings,
    ``[B, O, W, D]``.

    An outcome-conditioned model steers from what it says without an outcome, z₀, towards what it says with it, z_a:
    z = z₀ + s·(z_a − z₀), and beyond for s > 1, as in classifier-free guidance (Ho & Salimans, 2022).
    """
    embedding = model.head.conditioned(hidden[:, None, None, :], condition)
    if not model.config.variant.outcome_conditioned:
        return embedding
    steered, unconditioned = embedding[:, :-1], embedding[:, -1:]
    scale = strength[:, :, None, None].to(embedding.dtype)
    return unit_vectors(unconditioned + scale * (steered - unconditioned), embedding.dtype)


def fed_back(embedding: Tensor, outcome: Tensor, offsets: tuple[int, ...]) -> Tensor:
    """The next-item embedding of one ``outcome``, int64 ``[B]``, per row of a step's ``[B, O, W, D]``: ``[B, D]``.

    It lives in item space already, so it stands for the item that the user would act on next.
    """
    row = torch.arange(embedding.shape[0], device=embedding.device)
    return embedding[row, outcome, offsets.index(1)]


def decode_step(
    model: SequenceModel, item: Tensor, request: RequestContext, previous_timestamp: Tensor, state: DecoderState
) -> tuple[Tensor, DecoderState]:
    """One token more: an item ``[B, D]`` behind all before → its hidden state ``[B, H]``, and the state behind it.

    ``previous_timestamp`` int64 ``[B]`` is the time of the token before it.
    """
    token = model.tokens(item, request.surface, request.timestamp, previous_timestamp)
    return model.decoder.step(token, state)
