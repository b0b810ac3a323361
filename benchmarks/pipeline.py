"""The four stages called in process, one after the other: the ensemble without Triton between its stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from id_embedder.stage import IdEmbedderStage
from pinrec_core.contract import FAISS_RETRIEVAL, GENERATOR, ID_EMBEDDER, PIPELINE, SIGNAL_FETCH, StageSpec
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import PinRecError
from pinrec_core.ids import IdKind
from pinrec_core.stages.base import Stage, StageParameters, Tensors, run_batch
from pinrec_core.stages.faiss_retrieval import FaissRetrievalStage
from pinrec_core.stages.generator import GeneratorStage
from signal_service.fetch_stage import SignalFetchStage


class Pipeline:
    """All stages of one release, in the order in which a request passes them."""

    def __init__(self, parameters: StageParameters) -> None:
        self.stages: dict[str, Stage[Any]] = {
            SIGNAL_FETCH.name: SignalFetchStage.open(parameters),
            ID_EMBEDDER.name: IdEmbedderStage(parameters),
            GENERATOR.name: GeneratorStage(parameters),
            FAISS_RETRIEVAL.name: FaissRetrievalStage(parameters),
        }

    def run(self, requests: Sequence[Tensors], *, until: StageSpec = PIPELINE[-1]) -> list[dict[str, np.ndarray]]:
        """Run the stages up to ``until``; per request, every tensor that is known then. Raises the first error."""
        known = [dict(request) for request in requests]
        for spec in PIPELINE[: PIPELINE.index(until) + 1]:
            for tensors, answer in zip(known, self.run_stage(spec, known), strict=True):
                tensors.update(answer)
        return known

    def run_stage(self, spec: StageSpec, known: Sequence[Tensors]) -> list[Tensors]:
        """Run one stage on the tensors that are known of each request. Raises the first error."""
        inputs = [{t.name: tensors[t.name] for t in spec.inputs if t.name in tensors} for tensors in known]
        answers = []
        for answer in run_batch(self.stages[spec.name], inputs):
            if isinstance(answer, PinRecError):
                raise answer
            answers.append(answer)
        return answers


def request_tensors(user_id: int | str, num_items: int, manifest: DatasetManifest) -> dict[str, np.ndarray]:
    """A request in the form in which the first stage gets it."""
    string_ids = manifest.user_id_kind is IdKind.STRING
    user = np.array([str(user_id).encode()], object) if string_ids else np.array([user_id], np.int64)
    return {"user_id": user, "num_items": np.array([num_items], np.int32)}
