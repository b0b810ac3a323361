"""The generator stage: history → embeddings with outcomes and quotas (``contract.GENERATOR``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pinrec_core.errors import InvalidRequestError, PinRecError
from pinrec_core.generation.generate import generate
from pinrec_core.generation.inputs import packed_histories, request_context
from pinrec_core.generation.retrieval_plan import plan_retrieval
from pinrec_core.release.format import Release
from pinrec_core.request import Request
from pinrec_core.stages.base import StageParameters, Tensors
from pinrec_core.stages.packing import decode_request, encode_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorRow:
    """One request as the model needs it. It lists no seen items: ``faiss_retrieval`` leaves those out."""

    request: Request
    id_embedding: np.ndarray  # float16 [T, I]


class GeneratorStage:
    """Prefill, decode steps, compression and budget allocation, for all requests of a batch together."""

    def __init__(self, parameters: StageParameters) -> None:
        torch.set_num_threads(parameters.threads)
        release = Release.open(parameters.release_folder)
        self.model = release.load_model(parameters.device)
        self.generation = release.manifest.generation

    def parse(self, tensors: Tensors) -> GeneratorRow:
        request = decode_request(tensors["packed_request"])
        T, F = request.history.feature.shape
        if F != self.model.config.feature_width:
            raise InvalidRequestError(f"history feature has width {F}: expected {self.model.config.feature_width}")
        if T > self.model.config.max_history:
            raise InvalidRequestError(f"history has T={T}: expected at most {self.model.config.max_history}")
        id_embedding, expected = tensors["history_id_embedding"], (T, self.model.config.id_width)
        if id_embedding.shape != expected:
            raise InvalidRequestError(
                f"history_id_embedding has shape {list(id_embedding.shape)}: expected {list(expected)}"
            )
        return GeneratorRow(request=request, id_embedding=id_embedding)

    def run(self, rows: Sequence[GeneratorRow]) -> Sequence[Tensors | PinRecError]:
        device = self.model.start_token.device
        requests = [row.request for row in rows]
        histories = [request.history for request in requests]
        history = packed_histories(histories, [row.id_embedding for row in rows], requests).to(device)
        context = request_context(requests, steps=self.generation.steps, device=device)
        embedding = generate(self.model, history, context, self.generation.offsets)
        plans = plan_retrieval(embedding, requests, self.generation)
        return [{"retrieval_plan": encode_plan(plan)} for plan in plans]
