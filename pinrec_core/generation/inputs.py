"""Requests to what the model reads: a packed batch of histories, and the context of the tokens to be generated.

The generator stage and everything that generates in process come through here, so that they cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pinrec_core.config.sections import GenerationConfig
from pinrec_core.generation.draws import Draw, random_stream
from pinrec_core.generation.generate import RequestContext
from pinrec_core.history import History
from pinrec_core.model.packed_histories import PackedHistories, pack
from pinrec_core.model.sequence_model import SequenceModel
from pinrec_core.request import Request

EmbedIds = Callable[[Tensor], Tensor]
"""Keys int64 ``[n]`` → ID embeddings ``[n, I]``."""


def embedded_histories(model: SequenceModel, embed_ids: EmbedIds, requests: Sequence[Request]) -> PackedHistories:
    """The last ``max_history`` interactions of each request as the generator stage gets them.

    The ID embedder runs on the CPU and its result passes through FP16, as between the stages of the service.
    """
    histories = [request.history.take(slice(-model.config.max_history, None)) for request in requests]
    keys = np.concatenate([history.item_key for history in histories])
    with torch.inference_mode():
        id_embedding = embed_ids(torch.from_numpy(keys)).half().numpy()
    ends = np.cumsum([len(history) for history in histories])
    return packed_histories(histories, np.split(id_embedding, ends[:-1]), requests).to(model.start_token.device)


def packed_histories(
    histories: Sequence[History], id_embedding: Sequence[np.ndarray], requests: Sequence[Request]
) -> PackedHistories:
    """B histories with their ID embeddings, FP16 ``[T_b, I]`` each, and whose requests they belong to: on the CPU."""
    return pack(
        histories,
        id_embedding,
        request_surface=[request.surface for request in requests],
        request_time=[request.time for request in requests],
    )


def request_context(
    requests: Sequence[Request], generation: GenerationConfig, *, device: torch.device
) -> RequestContext:
    """Surface, time, strength and the outcomes that feed back, which each request's own seed draws."""
    feedback = [draw_feedback_outcomes(request.budget, generation.steps, request.seed) for request in requests]
    return RequestContext(
        surface=torch.tensor([request.surface for request in requests], device=device),
        timestamp=torch.tensor([request.time for request in requests], device=device),
        strength=torch.from_numpy(np.stack([_strength(request, generation) for request in requests])).to(device),
        feedback_outcome=torch.from_numpy(np.stack(feedback)).to(device),
    )


def _strength(request: Request, generation: GenerationConfig) -> np.ndarray:
    """Of each outcome's steering, float32 ``[O]``: the request's own, or what was calibrated."""
    O = len(request.budget)
    if request.strength is not None:
        return np.full(O, request.strength, np.float32)
    return np.array(generation.strength or [1.0] * O, np.float32)


def draw_feedback_outcomes(budget: np.ndarray, steps: int, seed: int) -> np.ndarray:
    """Outcomes that feed back after each step but the last, drawn from one request's budget ``[O]``: int64 ``[S − 1]``.

    Per request and from its own seed, so that a request is answered alike whatever batch it lands in.
    """
    return random_stream(seed, Draw.FEEDBACK).choice(len(budget), size=steps - 1, p=budget / budget.sum())
