"""How the process of a stage loads and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pinrec_core.stages.base import StageParameters
from pinrec_serving.processes import LOADING_NICENESS
from pinrec_serving.stage_process import BROKEN, at_low_priority

PARAMETERS = StageParameters(release=None, signals=None, realtime=None, device="cpu", threads=1)

BREAKS = """
import json, sys
from types import SimpleNamespace
sys.modules["triton_python_backend_utils"] = SimpleNamespace(
    deserialize_bytes_tensor=None,
    InferenceResponse=lambda output_tensors, error: print(error, flush=True),
    TritonError=type("TritonError", (), {
        "UNAVAILABLE": "UNAVAILABLE",
        "__init__": lambda self, message, code: setattr(self, "said", f"{code}: {message}"),
        "__str__": lambda self: self.said,
    }),
)
from pinrec_core.contract import ID_EMBEDDER
from pinrec_core.errors import BrokenStageError
from pinrec_serving.stage_process import ServedStage

class Stage:
    def parse(self, tensors): return tensors
    def run(self, rows): raise BrokenStageError("the GPU has failed")

configuration = {"parameters": {"threads": {"string_value": "1"}}}
served = ServedStage(
    ID_EMBEDDER, {"model_config": json.dumps(configuration), "model_name": "id_embedder__r1"}, lambda _: Stage()
)
tensor = SimpleNamespace(name=lambda: "history_item_key", as_numpy=lambda: __import__("numpy").zeros((1, 0), "int64"))
request = SimpleNamespace(inputs=lambda: [tensor], request_id=lambda: "42")
served.execute([request, request])
import time
time.sleep(60)
"""


def test_a_stage_loads_behind_others_and_serves_beside_them() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = niceness()
    assert at_low_priority(lambda parameters: (niceness(), parameters))(PARAMETERS) == (
        max(before, LOADING_NICENESS), PARAMETERS,
    )  # fmt: skip
    assert niceness() == before


def test_what_goes_wrong_while_loading_is_raised() -> None:
    def fail(parameters: StageParameters) -> None:
        raise FileNotFoundError("model.safetensors")

    with pytest.raises(FileNotFoundError, match="model"):
        at_low_priority(fail)(PARAMETERS)  # type: ignore[type-var]


def test_a_stage_that_cannot_go_on_answers_and_ends(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", BREAKS], capture_output=True, text=True, timeout=50)
    assert ended.stdout.splitlines() == ["UNAVAILABLE: the GPU has failed"] * 2, ended.stderr
    assert ended.returncode == BROKEN
