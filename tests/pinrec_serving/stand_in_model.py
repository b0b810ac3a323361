"""A stand-in ``model.py`` for every stage: the server and the Triton boundary are real, the stage computes nothing.

The answers show which release made them. The generator writes the number of its release into every quota, and the last
stage returns that as the score, beside the name of its own release. In an answer made by two releases these would
differ. A request can ask for a fault by its ``surface``: "malformed", "bug", "expired", "slow" or "stuck".
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from pinrec_core import contract
from pinrec_core.contract import DType, TensorSpec
from pinrec_core.deadline import Deadline
from pinrec_core.errors import ExpiredError, InvalidRequestError, PinRecError, ReleaseError
from pinrec_core.generation.retrieval_plan import RetrievalPlan
from pinrec_core.history import History
from pinrec_core.limits import REQUEST
from pinrec_core.request import Request
from pinrec_core.stages.base import StageParameters, Tensors, scalar, text
from pinrec_core.stages.packing import decode_plan, decode_request, encode_plan, encode_request
from pinrec_serving import triton_boundary
from pinrec_serving.stage_process import ServedStage

SPECS = {spec.name: spec for spec in (*contract.PIPELINE, contract.SIGNAL_INGEST)}
NEW_USER = 0
DEFAULT_NUM_ITEMS = 3


class StandIn:
    """Fills every output with zeros of the right shape: T = X = 0 for a new user, M = N = ``num_items``."""

    def __init__(self, spec: contract.StageSpec, parameters: StageParameters) -> None:
        self.spec = spec
        self.signals = parameters.signals
        self.release = parameters.release.name if parameters.release else ""
        if self.release == "damaged" and spec is contract.GENERATOR:
            raise ReleaseError("model.safetensors: sha256 does not fit")
        if self.release == "endless" and spec is contract.GENERATOR:
            time.sleep(600.0)

    def parse(self, tensors: Tensors) -> Tensors:
        surface = text(scalar(tensors, "surface") or b"", "surface", REQUEST)
        if surface == "malformed":
            raise InvalidRequestError(f"surface={surface!r}: expected a known surface")
        if surface == "bug":
            raise ZeroDivisionError
        if surface == "expired":
            raise ExpiredError("the caller has stopped waiting")
        return tensors

    def run(self, rows: Sequence[Tensors]) -> Sequence[Tensors | PinRecError]:
        time.sleep(0.001)  # long enough that requests meet in a batch
        if any(scalar(row, "surface") == b"slow" for row in rows):
            (self.signals / "slow").touch()  # tells the test that the request is being worked on
            time.sleep(1.0)
        if any(scalar(row, "surface") == b"stuck" for row in rows):
            time.sleep(600.0)
        return [{t.name: self._fill(t, row) for t in self.spec.outputs} for row in rows]

    def _fill(self, tensor: TensorSpec, row: Tensors) -> np.ndarray:
        history = 0 if row.get("user_id", [NEW_USER])[0] in (NEW_USER, b"") else 2
        quota = decode_plan(row["retrieval_plan"]).quota if "retrieval_plan" in row else np.empty(0, np.int32)
        match tensor.name:
            case "packed_request":
                timeout = row.get(contract.TIMEOUT_US, [math.inf])[0] / 1e6
                return encode_request(_request(int(row.get("num_items", [DEFAULT_NUM_ITEMS])[0]), timeout))
            case "retrieval_plan":
                return encode_plan(_plan(decode_request(row["packed_request"]).num_items, self.release))
        sizes = {"T": history, "X": history, "N": len(quota), "Q": 1}
        for name, values in row.items():  # outputs are as long as the history that came in
            if name.startswith("history_"):
                sizes["T"] = len(values)
        shape = [d if isinstance(d, int) else sizes.get(d, 4) for d in tensor.dims]
        if tensor.dtype is DType.BYTES:
            return np.full(shape, self.release, object)
        values = np.zeros(shape, triton_boundary.NUMPY_TYPES[tensor.dtype][0])
        match tensor.name:
            case "item_id":
                values[:] = np.arange(len(values))
            case "score":
                values[:] = quota
            case "stored":
                values[:] = len(row["event_id"])
        return values


def _request(num_items: int, timeout: float) -> Request:
    return Request(
        history=History.empty(4), surface=0, time=0, seed=0, budget=np.ones(1), num_items=num_items,
        deadline=Deadline.within(timeout),
    )  # fmt: skip


def _plan(num_items: int, release: str) -> RetrievalPlan:
    quota = np.full(num_items, int(release.removeprefix("r")), np.int32)
    return RetrievalPlan(embedding=np.zeros((num_items, 4)), outcome=np.zeros_like(quota), quota=quota)


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        spec = SPECS[args["model_name"].split("__")[0]]
        self.served = ServedStage(spec, args, functools.partial(StandIn, spec))

    def execute(self, requests: list[Any]) -> list[Any]:
        return self.served.execute(requests)

    def finalize(self) -> None:
        del self.served
