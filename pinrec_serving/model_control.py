"""Triton's model-control calls: loading and unloading the models of one server, and waiting for their requests."""

from __future__ import annotations

import time

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from pinrec_core.errors import ServerError
from pinrec_serving.runtime import TritonServer

LOAD_TIMEOUT = 1800.0  # seconds for one stage to load: on a GPU a large model is compiled for every bucket
UNLOAD_TIMEOUT = 60.0
POLL_INTERVAL = 0.1
RETURNED = ("UNAVAILABLE", "")
"""States of a model that has no requests in flight any more. While it has some, its state is UNLOADING."""


class ModelControl:
    """Triton's model-control calls. A call that fails raises ``ServerError``."""

    def __init__(self, server: TritonServer) -> None:
        self._client = triton.InferenceServerClient(server.endpoint.local.grpc)
        self._headers = server.admin_headers

    def load(self, name: str) -> None:
        try:
            self._client.load_model(name, headers=self._headers, client_timeout=LOAD_TIMEOUT)
            ready = self._client.is_model_ready(name)
        except InferenceServerException as error:
            raise ServerError(f"{name} cannot be loaded: {_sentence(error)}") from error
        if not ready:
            raise ServerError(f"{name} is loaded but not ready")

    def unload(self, name: str) -> None:
        try:
            self._client.unload_model(name, headers=self._headers, client_timeout=UNLOAD_TIMEOUT)
        except InferenceServerException as error:
            raise ServerError(f"{name} cannot be unloaded: {_sentence(error)}") from error

    def infer(self, name: str, inputs: list[triton.InferInput], *, timeout: float) -> triton.InferResult:
        """Send one request to a model, which has to answer within ``timeout`` seconds."""
        try:
            return self._client.infer(name, inputs, client_timeout=timeout)
        except InferenceServerException as error:
            raise ServerError(f"{name} does not answer: {_sentence(error)}") from error

    def wait_unloaded(self, names: list[str], deadline: float) -> bool:
        """Wait until none of these models has requests in flight; False when ``deadline`` has passed before."""
        while True:
            states = self._states()
            if all(states.get(name, "") in RETURNED for name in names):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_INTERVAL)

    def _states(self) -> dict[str, str]:
        try:
            index = self._client.get_model_repository_index(headers=self._headers, client_timeout=UNLOAD_TIMEOUT)
        except InferenceServerException as error:
            raise ServerError(f"the server's models cannot be listed: {_sentence(error)}") from error
        return {model.name: model.state for model in index.models}


def input_tensor(name: str, values: np.ndarray) -> triton.InferInput:
    """``values``, with the batch dimension, as an input of a request."""
    made = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values)
    return made


def _sentence(error: InferenceServerException) -> str:
    """The reason alone, without Triton's account of model states and without the backend's Python traceback."""
    return str(error.message()).split("UNAVAILABLE state: Internal: ")[-1].split("\n\nAt:")[0].strip("; \n")
