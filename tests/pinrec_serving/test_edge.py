"""The edge before several servers, as clients meet it: the real HAProxy with its own configuration."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
import tritonclient.grpc as triton_client
from tritonclient.grpc.service_pb2 import ModelInferResponse

from load_tests.fuzzing.messages import Case, Tensor
from pinrec_core.contract import SIGNAL_INGEST, DType
from pinrec_serving.runtime import Endpoint
from tests.client.scripted import Refusal, ScriptedService, scripted_service
from tests.pinrec_serving.fronts import INFER, ask, edge, fronted, http, refusal

pytestmark = pytest.mark.triton

USER = Tensor.of("user_id", "INT64", [7])
EVENT = Case(
    model="signal_ingest",
    tensors=tuple(
        Tensor.of(spec.name, "BYTES", [b"e1"]) if spec.dtype is DType.BYTES else Tensor.of(spec.name, "INT64", [1])
        for spec in SIGNAL_INGEST.inputs
    ),
)


def test_the_edge_guards_the_writer_of_events_which_has_no_front(program, inner, tmp_path) -> None:
    huge, empty = Tensor("event_id", "FP32", (1, 1 << 62), b""), Tensor("event_id", "BYTES", (0, 0), b"")
    refused = [
        (Case(model="signal_ingest", tensors=(huge,)).encode(), "shape: expected sizes"),
        (Case(model="signal_ingest", tensors=(empty,)).encode(), "shape: expected 1 row"),
        (EVENT.encode() + Case(model="signal_fetch__r1").encode(), "model_name: expected one name"),
        (Case(model="signal_fetch__r1", tensors=(USER,)).encode(), "model_name: expected pinrec or signal_ingest"),
        (Case(model="pinrec", tensors=(USER, huge)).encode(), "shape: expected sizes"),
    ]
    with (
        fronted(program, inner, tmp_path) as (_, replica),
        edge(program, replica=replica, signals=inner) as outer,
        grpc.insecure_channel(outer.grpc) as channel,
        triton_client.InferenceServerClient(outer.grpc) as client,
    ):
        infer = channel.unary_unary(INFER)
        for message, words in refused:
            with pytest.raises(grpc.RpcError) as caught:
                infer(message, timeout=20)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, words
            assert caught.value.details().startswith(words)
        with pytest.raises(grpc.RpcError) as caught:
            infer(Case(model="signal_ingest", tensors=(Tensor.of("event_id", "BYTES", [bytes(2 << 20)]),)).encode())
        assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.CANCELLED)

        def post(name: str, *shape: int) -> int:
            tensor = {"name": name, "shape": shape, "datatype": "FP32", "data": []}
            return http(f"{outer.http}/v2/models/signal_ingest/infer", json.dumps({"inputs": [tensor]}).encode())

        assert post("event_id", 1, 1 << 62) == post("event_id", 0, 0) == 400
        assert http(f"{outer.http}/v2/models/signal_ingest/trace/setting") == 404
        assert http(f"{outer.http}/v2/repository/index", b"{}") == 404

        assert ModelInferResponse.FromString(infer(EVENT.encode(), timeout=20)).outputs[0].name == "stored"
        assert ask(client) == b"r1"
        assert http(f"{outer.http}/v2/models/pinrec/ready") == 200


@contextmanager
def scripted_replica() -> Iterator[tuple[ScriptedService, Endpoint]]:
    """A Triton whose answers the test decides, and that says over HTTP that it is ready."""

    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with scripted_service() as service, ThreadingHTTPServer(("127.0.0.1", 0), Ready) as probed:
        threading.Thread(target=probed.serve_forever, daemon=True).start()
        yield service, Endpoint(grpc_port=int(service.url.split(":")[1]), http_port=probed.server_port)
        probed.shutdown()


def test_a_request_that_ends_a_stage_is_not_repeated_on_another_replica(program, tmp_path) -> None:
    lost = Refusal(None, grpc.StatusCode.INTERNAL, "Stub process 'generator__r1_0_0' is not healthy.")
    absent = Refusal(None, grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'pinrec' is not found")
    with (
        scripted_replica() as (service, inner),
        fronted(program, inner, tmp_path) as (_, replica),
        edge(program, replica=replica, signals=inner) as outer,
        triton_client.InferenceServerClient(outer.grpc) as client,
    ):
        for answer, tries in ((lost, 1), (absent, 3)):
            service.received.clear()
            service.answer = lambda _, answer=answer: answer
            assert refusal(lambda: ask(client, client_timeout=20))[0] == "UNAVAILABLE"
            assert len(service.received) == tries
