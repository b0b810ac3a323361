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

    n is steps times offsets. An embedding counts ``step_discount`` times as much as one of the step before.
    """
    n = embedding.shape[2]
    step = torch.arange(n, device=embedding.device) // len(config.offsets)
    kept = compress(embedding, config.merge_cosine, config.step_discount ** step.double())
    weights = kept.cpu().numpy()  # the plan is made on the host, once per batch
    on_host = embedding.float().cpu().numpy()
    quotas = allocate(
        np.stack([request.budget for request in requests]),
        weights,
        [request.num_items for request in requests],
        config.allocation,
        [request.seed for request in requests],
    )
    plans = []
    for vectors, quota in zip(on_host, quotas, strict=True):
        outcome, position = np.nonzero(quota)
        plans.append(
            RetrievalPlan(
                embedding=vectors[outcome, position],
                outcome=outcome.astype(np.int32),
                quota=quota[outcome, position].astype(np.int32),
            )
        )
    return plans
