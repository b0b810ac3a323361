"""The generator stage: history → embeddings with outcomes and quotas (``contract.GENERATOR``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pinrec_core.collate import collate, pad
from pinrec_core.errors import InvalidRequestError, PinRecError
from pinrec_core.generation import RequestContext, draw_feedback_outcomes, generate
from pinrec_core.history import DTYPES, NO_OUTCOME, History
from pinrec_core.release import Release
from pinrec_core.retrieval_plan import plan_retrieval
from pinrec_core.stages.base import StageParameters, Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorRequest:
    """One request as the model needs it."""

    history: History
    id_embedding: np.ndarray  # float16 [T, I]
    surface: int
    time: int
    budget: np.ndarray  # float [O]
    num_items: int
    seed: int


class GeneratorStage:
    """Prefill, decode, compression and allocation for a batch of requests at once."""

    def __init__(self, parameters: StageParameters) -> None:
        torch.set_num_threads(parameters.threads)
        release = Release.open(parameters.release_folder)
        self.model = release.load_model(parameters.device)
        self.generation = release.manifest.generation

    def parse(self, tensors: Tensors) -> GeneratorRequest:
        key = np.zeros(len(tensors["history_item_type"]), DTYPES["item_key"])  # the model reads ID embeddings, not keys
        outcome = np.full(len(key), NO_OUTCOME, DTYPES["outcome"])
        parts = {name: tensors[f"history_{name}"] for name in ("item_type", "surface", "timestamp", "feature", "scale")}
        T, F = parts["feature"].shape
        if F != self.model.config.feature_width:
            raise InvalidRequestError(f"history_feature has width {F}: expected {self.model.config.feature_width}")
        if T > self.model.config.max_history:
            raise InvalidRequestError(f"history_feature has T={T}: expected at most {self.model.config.max_history}")
        id_embedding, expected = tensors["history_id_embedding"], (T, self.model.config.id_width)
        if id_embedding.shape != expected:
            raise InvalidRequestError(
                f"history_id_embedding has shape {list(id_embedding.shape)}: expected {list(expected)}"
            )
        return GeneratorRequest(
            history=History(item_key=key, outcome=outcome, **parts),
            id_embedding=id_embedding,
            surface=int(tensors["resolved_surface"][0]),
            time=int(tensors["resolved_time"][0]),
            budget=tensors["resolved_budget"].astype(np.float64),
            num_items=int(tensors["resolved_num_items"][0]),
            seed=int(tensors["resolved_seed"][0]),
        )

    def run(self, rows: Sequence[GeneratorRequest]) -> Sequence[Tensors | PinRecError]:
        weight = self.model.start_token
        id_embedding = pad([row.id_embedding for row in rows]).to(weight.device, weight.dtype)
        surface, time = [row.surface for row in rows], [row.time for row in rows]
        history = collate([row.history for row in rows], id_embedding, request_surface=surface, request_time=time)
        feedback = [draw_feedback_outcomes(row.budget, self.generation.steps, row.seed) for row in rows]
        context = RequestContext(
            surface=torch.tensor(surface, device=weight.device),
            timestamp=torch.tensor(time, device=weight.device),
            feedback_outcome=torch.from_numpy(np.stack(feedback)).to(weight.device),
        )
        embedding = generate(self.model, history, context, self.generation.offsets)
        plans = plan_retrieval(
            embedding,
            [row.budget for row in rows],
            [row.num_items for row in rows],
            [row.seed for row in rows],
            self.generation,
        )
        return [
            {
                "embedding": plan.embedding,
                "embedding_outcome": plan.outcome,
                "embedding_quota": plan.quota,
            }
            for plan in plans
        ]
