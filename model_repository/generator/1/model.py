"""The model `generator` in Triton's Python backend: it builds the stage; `ServedStage` does the rest."""

from __future__ import annotations

from typing import Any

from pinrec_core import contract
from pinrec_core.stages.base import Stage, StageParameters
from pinrec_serving.stage_process import ServedStage, at_low_priority


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.served = ServedStage(contract.GENERATOR, args, build)

    def execute(self, requests: list[Any]) -> list[Any]:
        return self.served.execute(requests)

    def finalize(self) -> None:
        del self.served  # this closes its files and stores


@at_low_priority
def build(parameters: StageParameters) -> Stage[Any]:
    # Imported here because it may import torch, which must not happen before the process is prepared.
    from pinrec_core.stages.generator import GeneratorStage

    return GeneratorStage(parameters)
