"""The model `signal_fetch` in Triton's Python backend: it builds the stage; the Triton boundary does the rest."""

from __future__ import annotations

from typing import Any

from pinrec_core import contract
from pinrec_serving import triton_boundary


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        triton_boundary.prepare_process(args)
        parameters = triton_boundary.stage_parameters(args)
        self.metrics = parameters.metrics
        # Imported here because it may import torch, which must not happen before the process is prepared.
        from signal_service.fetch_stage import SignalFetchStage

        self.stage = SignalFetchStage.open(parameters)

    def execute(self, requests: list[Any]) -> list[Any]:
        return triton_boundary.execute(contract.SIGNAL_FETCH, self.stage, requests, self.metrics)

    def finalize(self) -> None:
        del self.stage  # this closes its files and stores
