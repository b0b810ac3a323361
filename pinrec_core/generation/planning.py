"""From generated embeddings to retrieval queries: compress, then share the budget out (PinRec, generation)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pinrec_core.config.sections import GenerationConfig
from pinrec_core.generation.budget import allocate
from pinrec_core.generation.compression import compress
from pinrec_core.generation.retrieval_plan import RetrievalPlan
from pinrec_core.request import Request


def plan_retrieval(embedding: Tensor, requests: Sequence[Request], config: GenerationConfig) -> list[RetrievalPlan]:
    """Embeddings ``[B, O, n, D]`` of B requests → one plan per request.

    n is steps times offsets. An embedding counts ``step_discount`` times as much as one of the step before, and at
    δ > 1 ``offset_discount`` times as much as that of the next item.
    """
    return plan_of_weights(*merged(embedding, config), requests, config)


def merged(embedding: Tensor, config: GenerationConfig) -> tuple[Tensor, Tensor]:
    """Embeddings ``[B, O, n, D]`` → the same after compression, and the weight of each, float64 ``[B, O, n]``, on the
    same device."""
    own = own_weights(config, embedding.shape[2], embedding.device)
    return compress(embedding, config.merge_cosine, own)


def own_weights(config: GenerationConfig, n: int, device: torch.device) -> Tensor:
    """What each of a request's n embeddings of an outcome weighs before any merges into it: float64 ``[n]``."""
    index = torch.arange(n, device=device)
    W = len(config.offsets)
    is_later = index % W != config.offsets.index(1)
    return config.step_discount ** (index // W).double() * config.offset_discount ** is_later.double()


def plan_of_weights(
    embedding: Tensor, weight: Tensor, requests: Sequence[Request], config: GenerationConfig
) -> list[RetrievalPlan]:
    """As ``plan_retrieval``, of compressed embeddings and their weights, ``[B, O, n]``."""
    # The plan is made on the host, once per batch.
    on_host = (embedding if embedding.dtype is torch.float16 else embedding.float()).cpu().numpy()
    quotas = allocate(
        np.stack([request.budget for request in requests]),
        weight.cpu().numpy(),
        [request.num_items for request in requests],
        config.allocation,
        [request.seed for request in requests],
    )
    plans = []
    for vectors, quota in zip(on_host, quotas, strict=True):
        outcome, position = np.nonzero(quota)
        plans.append(
            RetrievalPlan(
                # Of FP16 from a GPU only what is kept is turned to FP32, and by torch: NumPy takes ten times as long.
                embedding=torch.from_numpy(vectors[outcome, position]).float().numpy(),
                outcome=outcome.astype(np.int32),
                quota=quota[outcome, position].astype(np.int32),
            )
        )
    return plans
