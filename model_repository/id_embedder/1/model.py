"""The model `id_embedder` in Triton's Python backend: it builds the stage; the Triton boundary does the rest."""

from __future__ import annotations

from typing import Any

from pinrec_core import contract
from pinrec_core.stages.base import Stage
from pinrec_serving import triton_boundary


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        triton_boundary.prepare_process(args)
        parameters = triton_boundary.stage_parameters(args)
        self.metrics = parameters.metrics
        self.stage: Stage[Any]
        # Imported here because one may import torch, which must not happen before the process is prepared, and the
        # other has no need of it.
        if parameters.id_embedder is None:
            from id_embedder.stage import IdEmbedderStage

            self.stage = IdEmbedderStage(parameters)
        else:
            from id_embedder.remote_stage import RemoteIdEmbedderStage
            from pinrec_serving.remote_model import RemoteModel

            # There the model has the name that it has here, in which the release is.
            self.stage = RemoteIdEmbedderStage(
                RemoteModel(contract.ID_EMBEDDER, args["model_name"], parameters.id_embedder)
            )

    def execute(self, requests: list[Any]) -> list[Any]:
        return triton_boundary.execute(contract.ID_EMBEDDER, self.stage, requests, self.metrics)

    def finalize(self) -> None:
        del self.stage  # this closes its files, stores and connections
