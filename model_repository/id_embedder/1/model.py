"""The model `id_embedder` in Triton's Python backend: it builds the stage; `ServedStage` does the rest."""

from __future__ import annotations

from typing import Any

from id_embedder.remote_stage import RemoteIdEmbedderStage
from pinrec_core import contract
from pinrec_core.stages.base import Stage, StageParameters
from pinrec_serving.stage_process import ServedStage, at_low_priority


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.served = ServedStage(contract.ID_EMBEDDER, args, build, remote=RemoteIdEmbedderStage.open)

    def execute(self, requests: list[Any]) -> list[Any]:
        return self.served.execute(requests)

    def finalize(self) -> None:
        del self.served  # this closes its files, stores and connections


@at_low_priority
def build(parameters: StageParameters) -> Stage[Any]:
    # Imported here because the stage elsewhere has no need of it.
    from id_embedder.stage import IdEmbedderStage

    return IdEmbedderStage(parameters)
