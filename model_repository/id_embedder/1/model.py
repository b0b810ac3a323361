"""The model `id_embedder` in Triton's Python backend: it builds the stage; `ServedStage` does the rest."""

from __future__ import annotations

import functools
from typing import Any

from pinrec_core import contract
from pinrec_core.stages.base import Stage, StageParameters
from pinrec_serving.stage_process import ServedStage, at_low_priority


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.served = ServedStage(contract.ID_EMBEDDER, args, functools.partial(build, args["model_name"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        return self.served.execute(requests)

    def finalize(self) -> None:
        del self.served  # this closes its files, stores and connections


def build(model: str, parameters: StageParameters) -> Stage[Any]:
    if parameters.id_embedder is None:
        return with_tables(parameters)
    from id_embedder.remote_stage import RemoteIdEmbedderStage
    from pinrec_core.release.format import Release
    from pinrec_serving.remote_model import RemoteModel

    # There the model has the name that it has here, in which the release is.
    return RemoteIdEmbedderStage(
        RemoteModel(contract.ID_EMBEDDER, model, parameters.id_embedder),
        max_history=Release.open(parameters.release_folder).manifest.model.max_history,
    )


@at_low_priority
def with_tables(parameters: StageParameters) -> Stage[Any]:
    # Imported here because the other one has no need of it.
    from id_embedder.stage import IdEmbedderStage

    return IdEmbedderStage(parameters)
