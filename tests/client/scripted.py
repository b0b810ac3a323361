"""Triton's gRPC interface in this process: answers as a test tells it to, and records what it is asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
from google.protobuf.message import Message
from tritonclient.grpc.service_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
)
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor


@dataclass(frozen=True)
class Refusal:
    """A failure with more than a status. ``pushback`` is the value of grpc-retry-pushback-ms, if it is sent."""

    pushback: str | None = None
    status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    details: str = "as the script says"


DRAINING = Refusal(None, grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'pinrec' has no available versions")

Answer = Message | grpc.StatusCode | Refusal
Question = ModelInferRequest | ModelMetadataRequest | ModelReadyRequest


@dataclass(frozen=True)
class Received:
    """One message that a client has sent. ``ended`` is set when the server is done with it, or it was cancelled."""

    question: Question
    deadline: float  # monotonic seconds
    at: float  # monotonic seconds
    metadata: dict[str, str]
    ended: threading.Event = field(default_factory=threading.Event)


class ScriptedService(GRPCInferenceServiceServicer):
    """Calls ``answer`` with each message that arrives and sends what it returns: an answer, or a status of failure."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answer: Callable[[Question], Answer] = lambda _: grpc.StatusCode.UNIMPLEMENTED
        self.received: list[Received] = []

    def script(self, *answers: Answer) -> None:
        """Give these answers, in this order, whatever is asked."""
        left = iter(answers)
        self.answer = lambda _: next(left)

    def _reply(self, question: Question, context: grpc.ServicerContext) -> Message:
        now = time.monotonic()
        received = Received(question, now + context.time_remaining(), now, dict(context.invocation_metadata()))
        context.add_callback(received.ended.set)
        self.received.append(received)
        answer = self.answer(question)
        if isinstance(answer, grpc.StatusCode):
            answer = Refusal(status=answer)
        if isinstance(answer, Refusal):
            if answer.pushback is not None:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", answer.pushback),))
            context.abort(answer.status, answer.details)
        return answer

    ModelInfer = ModelMetadata = ModelReady = _reply


@contextmanager
def scripted_service(port: int = 0, credentials: grpc.ServerCredentials | None = None) -> Iterator[ScriptedService]:
    """Serve until the context ends, on a free port unless one is given, with TLS if there are credentials."""
    server = grpc.server(ThreadPoolExecutor(max_workers=8))
    address = f"127.0.0.1:{port}"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    service = ScriptedService(f"127.0.0.1:{port}")
    add_GRPCInferenceServiceServicer_to_server(service, server)
    server.start()
    yield service
    server.stop(grace=None).wait()


def tensors(**outputs: np.ndarray) -> ModelInferResponse:
    """A model's answer."""
    response = ModelInferResponse()
    for name, array in outputs.items():
        datatype = np_to_triton_dtype(array.dtype)
        response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if datatype == "BYTES":
            array = serialize_byte_tensor(array)  # [1] of bytes, or empty
            response.raw_output_contents.append(array.item() if array.size else b"")
        else:
            response.raw_output_contents.append(array.tobytes())
    return response


def recommendations(n: int = 2, **changes: np.ndarray) -> ModelInferResponse:
    """Items 0 … n − 1, all for the outcome ``like``; ``changes`` replaces tensors."""
    outputs = {
        "item_id": np.arange(n, dtype=np.int64)[None],
        "score": np.linspace(1, 0, n, dtype=np.float32)[None],
        "outcome": np.array([[b"like"] * n], object).reshape(1, n),
        "release": np.array([[b"r1"]], object),
        "history_source": np.array([[b"both", b""]], object),
    }
    return tensors(**{**outputs, **changes})


def stored(n: int) -> ModelInferResponse:
    """``n`` events are in the store."""
    return tensors(stored=np.array([[n]], np.int32))


def ready(yes: bool = True) -> ModelReadyResponse:
    return ModelReadyResponse(ready=yes)


def metadata(item_id_type: str) -> ModelMetadataResponse:
    """The metadata of the ingest model, as far as the client reads it."""
    response = ModelMetadataResponse()
    response.inputs.add(name="event_item_id", datatype=item_id_type)
    return response
