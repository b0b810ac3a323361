"""`id_embedder` in Triton's Python backend: the stage, behind the one Triton boundary."""

from __future__ import annotations

from typing import Any

from pinrec_core import contract
from pinrec_serving import triton_boundary


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        triton_boundary.prepare_process()
        # May import torch: after the process is prepared.
        from id_embedder.stage import IdEmbedderStage

        self.stage = IdEmbedderStage(triton_boundary.stage_parameters(args))

    def execute(self, requests: list[Any]) -> list[Any]:
        return triton_boundary.execute(contract.ID_EMBEDDER, self.stage, requests)

    def finalize(self) -> None:
        del self.stage  # closes its files and stores
