"""What serving would generate for a user, made in process: the same batches, budgets and number formats.

The ID embedder runs on the CPU and its result passes through FP16, as between the stages of the service.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pinrec_core.collate import collate, pad
from pinrec_core.config import GenerationConfig, ModelConfig
from pinrec_core.dataset import DatasetManifest
from pinrec_core.errors import ConfigError, require
from pinrec_core.evaluation.cases import EvaluationCase
from pinrec_core.generation import RequestContext, draw_feedback_outcomes, generate
from pinrec_core.sequence_model import HistoryBatch, SequenceModel


def generate_for(
    model: SequenceModel,
    embed_ids: Callable[[Tensor], Tensor],
    cases: Sequence[EvaluationCase],
    budget: np.ndarray,
    generation: GenerationConfig,
) -> Tensor:
    """What serving would generate for B users under one budget ``[O]``: ``[B, O, S·W, D]`` on the model's device."""
    histories = history_batch(model, embed_ids, cases)
    return generate(model, histories, request_context(model, cases, budget, generation.steps), generation.offsets)


def history_batch(
    model: SequenceModel, embed_ids: Callable[[Tensor], Tensor], cases: Sequence[EvaluationCase]
) -> HistoryBatch:
    """The last ``max_history`` interactions of each case as the generator stage gets them. ``embed_ids`` maps keys
    ``[n]`` to ID embeddings ``[n, I]``."""
    histories = [case.history.take(slice(-model.config.max_history, None)) for case in cases]
    key = pad([h.item_key for h in histories])
    with torch.inference_mode():
        id_embedding = embed_ids(key.flatten()).half().unflatten(0, key.shape)
    return collate(
        histories,
        id_embedding.to(model.start_token.device, model.start_token.dtype),
        request_surface=[case.request_surface for case in cases],
        request_time=[case.request_time for case in cases],
    )


def request_context(
    model: SequenceModel, cases: Sequence[EvaluationCase], budget: np.ndarray, steps: int
) -> RequestContext:
    """Surface, time and feedback of each case's request; the draws are seeded by the user."""
    device = model.start_token.device
    feedback = [draw_feedback_outcomes(budget, steps, case.seed) for case in cases]
    return RequestContext(
        surface=torch.tensor([case.request_surface for case in cases], device=device),
        timestamp=torch.tensor([case.request_time for case in cases], device=device),
        feedback_outcome=torch.from_numpy(np.stack(feedback)).to(device),
    )


def serving_budget(model: SequenceModel, manifest: DatasetManifest) -> np.ndarray:
    """The default budget ``[O]``: the log's own outcome mix, or all on the one condition of an unconditioned model."""
    return np.array(manifest.outcome_share if model.config.num_conditions > 1 else (1.0,), np.float64)


def with_embeddings(
    generation: GenerationConfig,
    model: ModelConfig,
    *,
    embeddings: int | None = None,
    offsets: Sequence[int] | None = None,
) -> GenerationConfig:
    """Settings that generate ``embeddings`` per user in all, E = S·O·W, with the given offsets.

    For fairness between variants E is held constant, so the number of steps follows. A baseline of one embedding
    takes a single step whatever E, and only multi-token variants know offsets beyond the next item. Raises
    ``ConfigError`` when O·W does not divide E, or for offsets or steps beyond what the model was made for.
    """
    if model.variant.one_embedding:
        return replace(generation, steps=1, offsets=(1,))
    if offsets is not None:
        generation = replace(generation, offsets=tuple(offsets) if model.variant.multi_token else (1,))
    require(max(generation.offsets) <= model.max_offset, "offsets", generation.offsets,
            f"none above max_offset={model.max_offset}", error=ConfigError)  # fmt: skip
    if embeddings is None:
        return generation
    per_step = model.num_conditions * len(generation.offsets)
    steps, rest = divmod(embeddings, per_step)
    require(rest == 0 and steps > 0, "embeddings", embeddings,
            f"a multiple of {per_step}: {model.num_conditions} outcomes at {len(generation.offsets)} offsets per step",
            error=ConfigError)  # fmt: skip
    require(steps <= model.max_steps, "embeddings", embeddings,
            f"at most {model.max_steps * per_step}: the model was made for max_steps={model.max_steps}",
            error=ConfigError)  # fmt: skip
    return replace(generation, steps=steps)
