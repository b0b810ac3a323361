"""A stage with the tensors of the service, but without its work: it echoes, fails or waits as the request tells it to.

The real Triton loads it as the only step of the ensemble, and as the ingest model. ``surface`` steers it:
``error:CODE`` fails with a TritonError code, ``unavailable:K`` fails the first K attempts of a request id,
``wait:SECONDS`` waits, ``empty`` answers without items. Otherwise ``release`` holds the request as JSON.
"""

import json
import time
from collections import Counter
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.dtypes = {t["name"]: t["data_type"] for t in config["output"]}
        self.inputs = [t["name"] for t in config["input"]]
        self.attempts: Counter[str] = Counter()
        self.event_ids: set[str] = set()

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        received: dict[str, Any] = {"request_id": request.request_id()}
        for name in self.inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                values = tensor.as_numpy()[0].tolist()
                received[name] = [v.decode("utf-8") if isinstance(v, bytes) else v for v in values]
        self.attempts[received["request_id"]] += 1
        steer, _, how = received.get("surface", received.get("event_surface", [""]))[0].partition(":")
        if "stored" in self.dtypes:
            self.event_ids |= set(received["event_id"])
        if steer == "error":
            return failure(how)
        if steer == "unavailable" and self.attempts[received["request_id"]] <= int(how):
            return failure("UNAVAILABLE")
        if steer == "wait":
            time.sleep(float(how))
        if "stored" in self.dtypes:
            stored = len(self.event_ids & set(received["event_id"]))
            return pb_utils.InferenceResponse([pb_utils.Tensor("stored", np.array([[stored]], np.int32))])
        received["attempts"] = self.attempts[received["request_id"]]
        return self.items(received, 0 if steer == "empty" else received.get("num_items", [3])[0])

    def items(self, received, n):
        item_id = np.arange(1, n + 1, dtype=np.int64)
        if self.dtypes["item_id"] == "TYPE_STRING":
            item_id = np.array([f"item ü{i}" for i in item_id], object)
        outputs: dict[str, np.ndarray] = {
            "item_id": item_id,
            "score": np.linspace(1, 0, n, dtype=np.float32),
            "outcome": np.array(["like", "save"] * n, object)[:n],
            "release": np.array([json.dumps(received)], object),
            "history_source": np.array(["both", ""], object),
        }
        return pb_utils.InferenceResponse([pb_utils.Tensor(k, v[None]) for k, v in outputs.items()])


def failure(code):
    sentence = "user_id=-1: expected something else"
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(sentence, getattr(pb_utils.TritonError, code)))
