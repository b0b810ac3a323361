"""The generator stage: history → embeddings with outcomes and quotas (``contract.GENERATOR``)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pinrec_core.config.sections import GpuPrecision
from pinrec_core.errors import BrokenStageError, ExpiredError, PinRecError
from pinrec_core.generation.captured import CapturedGenerator
from pinrec_core.generation.cuda_graphs import CudaGraphs
from pinrec_core.generation.generate import RequestContext, generate
from pinrec_core.generation.inputs import packed_histories, request_context
from pinrec_core.generation.planning import merged, plan_of_weights
from pinrec_core.generation.program import Generate, Products, with_products
from pinrec_core.history import DTYPES, History
from pinrec_core.model.device import torch_device
from pinrec_core.model.packed_histories import PackedHistories
from pinrec_core.model.sequence_model import SequenceModel
from pinrec_core.release.format import Release
from pinrec_core.release.programs import load_program
from pinrec_core.request import Request
from pinrec_core.stages.base import StageParameters, Tensors
from pinrec_core.stages.bounds import check_id_embedding, check_request
from pinrec_core.stages.metrics import (
    EMBEDDINGS_GENERATED,
    EMBEDDINGS_KEPT,
    EMBEDDINGS_LOOKED_UP,
    NO_METRICS,
    PROGRAM,
    Metrics,
)
from pinrec_core.stages.packing import decode_request, encode_plan

GenerateWeighted = Callable[[PackedHistories, RequestContext], tuple[Tensor, Tensor]]
"""Histories and requests of a batch, on the CPU → compressed unit embeddings ``[B, O, n, D]``, and the weight of each,
float64 ``[B, O, n]``."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorRow:
    """One request as the model needs it. It lists no seen items: ``faiss_retrieval`` leaves those out."""

    request: Request
    id_embedding: np.ndarray  # float16 [T, I]


class GeneratorStage:
    """Prefill, decode steps, compression and budget allocation, for all requests of a batch together."""

    metrics: Metrics = NO_METRICS  # until it is ready: what warms it up is not counted

    def __init__(self, parameters: StageParameters) -> None:
        torch.set_num_threads(parameters.threads)
        release = Release.open(parameters.release_folder)
        self.config = release.manifest.model
        self.generation = release.manifest.generation
        device = torch_device(parameters.device)
        if device.type == "cuda":
            self.generate = self._on_gpu(release, device, parameters.gpu_precision)
            self.program = "cuda_graphs" if isinstance(self.generate, CapturedGenerator) else "plain"
        else:
            compiled = load_program(release) if device.type == "cpu" and parameters.compiled else None
            self.generate = self._weighted(compiled or self._plain(release.load_model(device)))
            self.program = "plain" if compiled is None else "compiled"
        self._warm_up()
        self.metrics = parameters.metrics
        self.metrics.record(PROGRAM, 1, self.program)

    def parse(self, tensors: Tensors) -> GeneratorRow:
        request = decode_request(tensors["packed_request"])
        check_request(request, self.config, self.generation)
        id_embedding = tensors["history_id_embedding"]
        check_id_embedding(id_embedding, len(request.history), self.config)
        return GeneratorRow(request=request, id_embedding=id_embedding)

    def run(self, rows: Sequence[GeneratorRow]) -> Sequence[Tensors | PinRecError]:
        """Rows whose caller has stopped waiting while they were in the queue are not generated for."""
        expired = [row.request.deadline.has_passed() for row in rows]
        answers = iter(self._plans([row for row, late in zip(rows, expired, strict=True) if not late]))
        return [ExpiredError("the caller has stopped waiting") if late else next(answers) for late in expired]

    def _plans(self, rows: Sequence[GeneratorRow]) -> Sequence[Tensors]:
        if not rows:
            return []
        requests = [row.request for row in rows]
        histories = [request.history for request in requests]
        history = packed_histories(histories, [row.id_embedding for row in rows], requests)
        context = request_context(requests, self.generation, device=torch.device("cpu"))
        try:
            embedding, weight = self.generate(history, context)
        except torch.AcceleratorError as error:  # CUDA answers every later call of this process with it, too
            raise BrokenStageError(f"the GPU has failed ({str(error).splitlines()[0]})") from error
        plans = plan_of_weights(embedding, weight, requests, self.generation)
        self.metrics.record(EMBEDDINGS_GENERATED, weight.numel())
        self.metrics.record(EMBEDDINGS_KEPT, int(torch.count_nonzero(weight)))  # the plan has waited for them
        self.metrics.record(EMBEDDINGS_LOOKED_UP, sum(len(plan.quota) for plan in plans))
        return [{"retrieval_plan": encode_plan(plan)} for plan in plans]

    def _on_gpu(self, release: Release, device: torch.device, precision: GpuPrecision) -> GenerateWeighted:
        model = release.load_model(device, torch.float16 if precision is GpuPrecision.FP16 else torch.float32)
        if precision is GpuPrecision.BF16:
            model = with_products(model, Products.BF16)
        try:
            return CapturedGenerator(model, self.generation, recorder=CudaGraphs(device))
        except Exception as error:  # of the compiler, of the driver, or of memory: the plain model needs none of them
            log.warning(
                "%s: no CUDA graphs (%r); the plain model serves on the GPU", release.folder, error, exc_info=True
            )
            return self._weighted(self._plain(model))

    def _plain(self, model: SequenceModel) -> Generate:
        device = model.start_token.device
        return lambda history, request: generate(model, history.to(device), request.to(device), self.generation.offsets)

    def _weighted(self, generate: Generate) -> GenerateWeighted:
        def weighted(history: PackedHistories, request: RequestContext) -> tuple[Tensor, Tensor]:
            return merged(generate(history, request), self.generation)

        return weighted

    def _warm_up(self) -> None:
        """Serve the shortest and the longest history, so that no request pays for what torch does once."""
        config = self.config
        budget = np.full(config.num_conditions, 1 / config.num_conditions)
        for T in (0, config.max_history):
            history = History(
                **{name: np.zeros(T, DTYPES[name]) for name in History.__slots__ if name != "feature"},
                feature=np.zeros((T, config.feature_width), DTYPES["feature"]),
            )
            request = Request(history=history, surface=0, time=0, seed=0, budget=budget, num_items=1)
            self.run([GeneratorRow(request=request, id_embedding=np.zeros((T, config.id_width), np.float16))])
