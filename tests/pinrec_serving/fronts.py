"""HAProxy as clients meet it, for the tests: a front, the edge before it, and calls whose refusal can be looked at."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_client
from tritonclient.utils import InferenceServerException

from pinrec_serving.front import CONFIGURATION, Front, FrontOptions
from pinrec_serving.model_control import input_tensor
from pinrec_serving.runtime import Endpoint
from tests.conftest import ROOT
from tests.pinrec_serving.conftest import free_endpoint

INFER = "/inference.GRPCInferenceService/ModelInfer"
EDGE = ROOT / "docker" / "scale-out" / "haproxy.cfg"
PATIENCE = 30.0  # seconds; an edge finds its servers within one


@contextmanager
def fronted(program: Path, inner: Endpoint, folder: Path, **options) -> Iterator[tuple[Front, Endpoint]]:
    outer = free_endpoint()
    with Front(program, FrontOptions(**options), outer=outer, inner=inner, log_folder=folder) as front:
        yield front, outer


@contextmanager
def edge(program: Path, *, replica: Endpoint, signals: Endpoint) -> Iterator[Endpoint]:
    """The edge with its own configuration, but for the ports and addresses. It counts the replica as three."""
    outer, servers = free_endpoint(), {"REPLICA": replica, "CANARY": replica, "SIGNALS": signals}

    def grpc(found: re.Match[str]) -> str:
        server = servers[found[1]]
        return f"{server.grpc} proto h2 port {server.http_port}"

    def http(found: re.Match[str]) -> str:
        return f"{servers[found[1]].host}:{servers[found[1]].http_port}"

    with tempfile.TemporaryDirectory(prefix="pinrec-edge-") as folder:
        text = EDGE.read_text("utf-8").replace("/tmp/edge.sock", f"{folder}/edge.sock")
        text = text.replace("server-template replica 32", "server-template replica 3")
        text = re.sub(r'"\$\{PINREC_EDGE_(\w+)-\w+\}:8001" proto h2 port 8000', grpc, text)
        text = re.sub(r'"\$\{PINREC_EDGE_(\w+)-\w+\}:8000"', http, text)
        for port, free in ((8000, outer.http_port), (8001, outer.grpc_port), (8002, outer.metrics_port)):
            text = text.replace(f"bind :{port}", f"bind {outer.host}:{free}")
        file = Path(folder) / "haproxy.cfg"
        file.write_text(text, "utf-8")
        with subprocess.Popen([program, "-db", "-m", "1536", *CONFIGURATION[:2], "-f", file]) as process:
            try:
                end = time.monotonic() + PATIENCE
                while not _found(outer):
                    assert process.poll() is None
                    assert time.monotonic() < end, "the edge finds no servers"
                    time.sleep(0.05)
                yield outer
            finally:
                process.terminate()


def _found(outer: Endpoint) -> bool:
    """Whether the edge has found all of its servers."""
    try:
        with urllib.request.urlopen(outer.metrics, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return False
    up = {li.split('"')[1]: float(li.split()[-1]) for li in lines if li.startswith("haproxy_backend_active_servers{")}
    return [up[name] for name in ("replicas", "http_replicas", "events", "http_events")] == [3, 3, 1, 1]


def ask(client: triton_client.InferenceServerClient, model: str = "pinrec", *, surface: str = "", **call):
    inputs = [
        input_tensor("user_id", np.array([[7]], np.int64)),
        input_tensor("surface", np.array([[surface.encode()]], object)),
    ]
    return client.infer(model, inputs, **call).as_numpy("release")[0, 0]


def refusal(call) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        call()
    return str(caught.value.status()).removeprefix("StatusCode."), str(caught.value.message())


def http(url: str, data: bytes | None = None) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
