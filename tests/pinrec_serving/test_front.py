"""The front as clients meet it: the real HAProxy before a real Triton with stand-in stages."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import replace
from http.client import HTTPConnection
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_client
import yaml
from tritonclient.grpc.service_pb2 import ModelConfigRequest, ModelInferRequest, ModelInferResponse
from tritonclient.utils import InferenceServerException
from typer.testing import CliRunner

from load_tests.fuzzing.messages import Case, Tensor
from pinrec_cli.main import app
from pinrec_core.errors import ConfigError, ServerError
from pinrec_serving import front as module
from pinrec_serving.front import CONFIGURATION, FrontChoice, FrontOptions, Tls, find_haproxy
from pinrec_serving.model_control import input_tensor
from pinrec_serving.runtime import Endpoint
from tests.conftest import ROOT
from tests.pinrec_serving.conftest import free_endpoint
from tests.pinrec_serving.fronts import INFER, ask, fronted, http, refusal

pytestmark = pytest.mark.triton

KEY = "a-key-of-a-product"


def test_what_is_too_much_is_refused_at_once_with_a_hint(program, inner, tmp_path) -> None:
    outcomes: Counter[str] = Counter()
    refused: list[grpc.RpcError] = []
    with fronted(program, inner, tmp_path, max_in_flight=2, pushback_ms=70) as (front, outer):

        def one() -> None:
            with triton_client.InferenceServerClient(outer.grpc) as client:
                try:
                    outcomes[ask(client, surface="slow").decode()] += 1
                except InferenceServerException as error:
                    outcomes[str(error.status())] += 1
                    refused.append(error.__cause__ or error)

        threads = [threading.Thread(target=one) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # A slow request takes a second and the queue lasts 20 ms, so that no third one finds a place.
        assert outcomes == {"r1": 2, "StatusCode.UNAVAILABLE": 6}
        assert front.refusals() == {"recommendations": 6, "events": 0, "http": 0}
        channel = grpc.insecure_channel(outer.grpc)
        slow = [threading.Thread(target=one) for _ in range(6)]  # enough to fill both places, whoever comes first
        for thread in slow:
            thread.start()
        hints: dict[str, str] = {}
        while not hints and any(thread.is_alive() for thread in slow):
            try:
                channel.unary_unary(INFER)(b"\x0a\x06pinrec\x1a\x50" + b"i" * 80, timeout=5)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    hints = dict(error.trailing_metadata())
        for thread in slow:
            thread.join()
        channel.close()
    assert hints["grpc-retry-pushback-ms"] == "70"


def test_events_have_places_of_their_own(program, inner, tmp_path) -> None:
    with (
        fronted(program, inner, tmp_path, max_in_flight=1) as (_, outer),
        triton_client.InferenceServerClient(outer.grpc) as client,
    ):
        busy = threading.Thread(target=lambda: ask(client, surface="slow"))
        busy.start()
        status = ""
        while status != "UNAVAILABLE" and busy.is_alive():
            try:
                ask(client)
            except InferenceServerException as error:
                status = str(error.status()).removeprefix("StatusCode.")
        assert status == "UNAVAILABLE", "the one place was never taken"
        # Refused by the stage, for want of its tensors: so it got there.
        assert refusal(lambda: client.infer("signal_ingest", [input_tensor("event_id", np.array([[b"1"]], object))]))[
            0
        ] == ("INVALID_ARGUMENT")
        assert client.is_model_ready("pinrec")
        busy.join()


def test_only_what_clients_need_is_offered(program, inner, server, tmp_path) -> None:
    with (
        fronted(program, inner, tmp_path) as (_, outer),
        triton_client.InferenceServerClient(outer.grpc) as client,
    ):
        assert ask(client) == b"r1"
        assert refusal(lambda: ask(client, "signal_fetch__r1")) == (
            "INVALID_ARGUMENT", "model_name: expected pinrec or signal_ingest",
        )  # fmt: skip
        for call in (client.get_model_repository_index, lambda **h: client.unload_model("pinrec", **h)):
            assert refusal(lambda call=call: call(headers=server.admin_headers))[0] == "UNIMPLEMENTED"
        assert client.is_server_live()
        assert client.get_model_metadata("pinrec").name == "pinrec"
        # To a client, a model that is being loaded or drained is a server that cannot answer now; to a proxy before
        # several servers it is one of the statuses on which another server is asked.
        before = errors_of(outer)
        assert refusal(lambda: client.get_model_metadata("nobody"))[0] == "UNAVAILABLE"
        assert errors_of(outer) == before + 1
        assert http(f"{outer.http}/v2/models/pinrec/ready") == 200
        assert http(f"{outer.http}/v2/repository/index", data=b"{}") == 404
        assert http(f"{outer.http}/v2/models/signal_fetch__r1/infer", data=b"{}") == 404
        user = {"name": "user_id", "shape": [1, 1], "datatype": "INT64", "data": [7]}
        assert http(f"{outer.http}/v2/models/pinrec/infer", data=json.dumps({"inputs": [user]}).encode()) == 200
        assert http(f"{outer.metrics}/front") == 200


def errors_of(outer: Endpoint) -> int:
    """Answers of the front to gRPC calls whose HTTP status is 5xx."""
    with urllib.request.urlopen(f"{outer.metrics}/front", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    (found,) = [li for li in lines if li.startswith('haproxy_frontend_http_responses_total{proxy="grpc",code="5xx"}')]
    return int(float(found.split()[-1]))


def test_who_has_no_key_gets_no_answer(program, inner, tmp_path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"# who may ask\n{hashlib.sha256(KEY.encode()).hexdigest()}  feed\n")
    with (
        fronted(program, inner, tmp_path, api_keys=keys) as (_, outer),
        triton_client.InferenceServerClient(outer.grpc) as client,
    ):
        assert ask(client, headers={"authorization": f"Bearer {KEY}"}) == b"r1"
        for headers in ({}, {"authorization": "Bearer guess"}, {"authorization": KEY}):
            status, message = refusal(lambda headers=headers: ask(client, headers=headers))
            assert status == "UNAUTHENTICATED"
            assert KEY not in message
        assert client.is_model_ready("pinrec")  # a probe needs none
        assert http(f"{outer.http}/v2/models/pinrec/infer", data=b"{}") == 401
        assert http(f"{outer.http}/v2/models/pinrec/ready") == 200
    assert KEY not in (tmp_path / "front.log").read_text()


def test_a_message_that_triton_does_not_survive_never_reaches_it(program, inner, tmp_path) -> None:
    """Without a front the first of them ends the process of a stage, and the second is never answered."""
    user = Tensor.of("user_id", "INT64", [7])
    known = Case(model="pinrec", tensors=(user,)).encode()
    huge, negative, product = (Tensor("budget", "FP32", s, b"") for s in ((1, 1 << 62), (1, -1), (1, *[1 << 16] * 4)))
    version, region = ModelInferRequest(model_version="1"), ModelInferRequest.FromString(known)
    region.inputs[0].parameters["shared_memory_region"].string_param = "none"
    compressed = grpc.Compression.Gzip
    refused = [
        (Case(model="pinrec", tensors=(user, huge)).encode(), "shape: expected sizes"),
        (Case(model="pinrec", tensors=(user, negative)).encode(), "shape: expected sizes"),
        (Case(model="pinrec", tensors=(user, product)).encode(), "shape: expected sizes"),
        (
            Case(model="signal_ingest", tensors=(Tensor("event_id", "BYTES", (0, 0), b""),)).encode(),
            "shape: expected 1 row",
        ),
        (known + Case(model="signal_ingest").encode(), "model_name: expected one name"),
        (Case(model="signal_fetch__r1", tensors=(user,)).encode(), "model_name: expected pinrec or signal_ingest"),
        (known + version.SerializeToString(), "model_version: expected none"),
        (region.SerializeToString(), "parameters: expected none"),
        (
            Case(model="pinrec", tensors=(user, Tensor("surface", "BYTES", (1, 1), b"\x05\0\0\0text"))).encode(),
            "contents",
        ),
        (Case(model="pinrec", tensors=(user, Tensor("surface", "BYTES", (1, 2), b"\0\0\0\0"))).encode(), "contents"),
        (Case(model="pinrec", tensors=(user, Tensor("surface", "BYTES", (1, 1), b""))).encode(), "contents"),
        (
            Case(model="pinrec", tensors=(user, Tensor.of("budget_outcome", "BYTES", [b""] * 10_001))).encode(),
            "contents",
        ),
        (known[:-1], "request: expected a message"),
        (b"\x0a\x06pinrec\x2a\xff\xff\xff\xff\x0f", "request: expected a message"),  # an input of 4 GiB
        (b"\x00" * 64, "request: expected a message"),
    ]
    with fronted(program, inner, tmp_path) as (_, outer), grpc.insecure_channel(outer.grpc) as channel:
        infer = channel.unary_unary(INFER)
        for message, words in refused:
            with pytest.raises(grpc.RpcError) as caught:
                infer(message, timeout=20)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, words
            assert caught.value.details().startswith(words)
        with pytest.raises(grpc.RpcError) as caught:
            infer(known + known, timeout=20, compression=compressed)
        assert caught.value.details().startswith("request: expected all of an uncompressed message")
        with pytest.raises(grpc.RpcError) as caught:
            infer(Case(model="pinrec", tensors=(Tensor.of("user_id", "BYTES", [bytes(2 << 20)]),)).encode(), timeout=20)
        assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.CANCELLED)
        large = Case(model="pinrec", tensors=(user, Tensor.of("surface", "BYTES", [bytes(1_000_000)]))).encode()
        assert ModelInferResponse.FromString(infer(large, timeout=20)).outputs  # the stand-in takes any surface
        assert ModelInferResponse.FromString(infer(known, timeout=20)).outputs


def test_over_http_too(program, inner, tmp_path) -> None:
    good = '{"name": "user_id", "shape": [1, 1], "datatype": "INT64", "data": [7]}'
    said = r'{"name": "surface", "shape": [1, 1], "datatype": "BYTES", "data": ["\"shape\": [9] \\"]}'
    wrong = '{"name": "budget", "datatype": "FP32", "data": [], '
    with fronted(program, inner, tmp_path) as (_, outer):

        def ask_http(*inputs: str) -> int:
            return http(f"{outer.http}/v2/models/pinrec/infer", f'{{"inputs": [{", ".join(inputs)}]}}'.encode())

        assert ask_http(good, said) == 200
        for member in (
            '"shape": [1, 4611686018427387904]',
            r'"sh\u0061pe": [1, 2]',
            '"shape": [1, 4e18]',
            '"shape": [0]',
        ):
            assert ask_http(good, wrong + member + "}") == 400, member
        assert ask_http(good[:5]) == 400  # it ends within a text
        announced = HTTPConnection(outer.host, outer.http_port, timeout=10)
        announced.putrequest("POST", "/v2/models/pinrec/infer")
        announced.putheader("Content-Length", str((1 << 20) + 1))
        announced.endheaders()  # refused before any of the bytes is sent
        assert announced.getresponse().status == 413
        announced.close()
        assert ask_http(good) == 200


def test_what_the_guard_cannot_see_as_a_whole_is_refused(program, inner, tmp_path) -> None:
    good = b'{"inputs": [{"name": "user_id", "shape": [1, 1], "datatype": "INT64", "data": [7]}]}'
    deadly = b', {"name": "budget", "shape": [1, 4611686018427387904], "datatype": "FP32", "data": []}]}'
    sent = tmp_path / "sent"
    with fronted(program, inner, tmp_path) as (_, outer):

        def post(body: bytes, *headers: str) -> str:
            """Over HTTP/2, which needs no Content-Length."""
            sent.write_bytes(body)
            command = ["curl", "-sS", "--http2-prior-knowledge", "--data-binary", f"@{sent}", "-H", "Expect:"]
            command += [word for header in headers for word in ("-H", header)]
            answer = ["-o", os.devnull, "-w", "%{http_code}", f"{outer.http}/v2/models/pinrec/infer"]
            return subprocess.run([*command, *answer], capture_output=True, text=True, timeout=60).stdout

        assert post(good) == "200"
        for body in (good, good[:-2] + b" " * 1_150_000 + deadly):
            # curl may see its stream end instead, because the rest of the body is not read.
            assert post(body, "Content-Length:") in ("413", "000")
        # Long headers take the place of the body's end in the buffer.
        body = good[:-2] + b" " * 1_040_000 + deadly
        assert len(body) < 1 << 20
        connection = HTTPConnection(outer.host, outer.http_port, timeout=30)
        connection.request("POST", "/v2/models/pinrec/infer", body, {"x-long": "a" * 100_000})
        assert connection.getresponse().status == 400
        connection.close()
        assert post(good) == "200"


def test_the_configuration_of_a_stage_is_nobodys_business(program, inner, tmp_path) -> None:
    with (
        fronted(program, inner, tmp_path) as (_, outer),
        triton_client.InferenceServerClient(outer.grpc) as client,
    ):
        assert client.get_model_config("pinrec").config.name == "pinrec"
        assert refusal(lambda: client.get_model_config("generator__r1"))[0] == "INVALID_ARGUMENT"
        both = b"".join(ModelConfigRequest(name=name).SerializeToString() for name in ("pinrec", "generator__r1"))
        with grpc.insecure_channel(outer.grpc) as channel:
            ask_for = channel.unary_unary(INFER.replace("ModelInfer", "ModelConfig"))
            with pytest.raises(grpc.RpcError) as caught:
                ask_for(both, timeout=20)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert http(f"{outer.http}/v2/models/pinrec/config") == 200
        assert http(f"{outer.http}/v2/models/generator__r1/config") == 404
        models = {model.name for model in client.get_inference_statistics().model_stats}
        assert "generator__r1" in models  # the load tests and whoever watches need it


def test_what_there_is_no_memory_to_look_at_is_refused(program, inner, tmp_path, monkeypatch) -> None:
    (tmp_path / "little.cfg").write_text("global\n    tune.lua.maxmem 1\n")
    monkeypatch.setattr(module, "CONFIGURATION", [*CONFIGURATION, "-f", tmp_path / "little.cfg"])
    user = Tensor.of("user_id", "INT64", [7])
    long = Case(model="pinrec", tensors=(user, Tensor.of("surface", "BYTES", [bytes(1_000_000)]))).encode()
    with (
        fronted(program, inner, tmp_path) as (_, outer),
        triton_client.InferenceServerClient(outer.grpc) as client,
        grpc.insecure_channel(outer.grpc) as channel,
    ):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(INFER)(long, timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert http(f"{outer.http}/v2/models/pinrec/infer", b'{"inputs": [' + b" " * 1_000_000 + b"]}") == 503
        assert ask(client) == b"r1"


def test_memory_is_bounded(program, inner, tmp_path) -> None:
    """The buffers, of which one is as large as the largest message, take no more than half of what HAProxy may have."""
    with fronted(program, inner, tmp_path) as (front, _):
        said = dict(line.split(": ", 1) for line in front._ask("show info").splitlines() if ": " in line)
        assert said["Memmax_MB"] == str(module.MEMORY_MIB)
        (size,) = re.findall(r"Pool buffer \((\d+) bytes\)", front._ask("show pools"))
    (most,) = re.findall(r"tune\.buffers\.limit (\d+)", CONFIGURATION[-1].read_text("utf-8"))
    assert 1 << 20 < int(size)
    assert int(most) * int(size) <= module.MEMORY_MIB * 2**20 * 0.55


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate authority, and a server and a client with certificates of it."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("authority")
    script = """
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
    for name in server client; do
      openssl req -newkey rsa:2048 -nodes -subj /CN=$name -keyout $name.key -out $name.csr
      printf 'subjectAltName=IP:127.0.0.1' > $name.ext
      openssl x509 -req -days 2 -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile $name.ext -out $name.pem
    done
    cat server.pem server.key > both.pem
    """
    subprocess.run(["sh", "-ec", script], cwd=folder, check=True, capture_output=True)
    return folder


def test_mutual_tls_on_every_port(program, inner, authority, tmp_path) -> None:
    tls = Tls(certificate=authority / "both.pem", client_ca=authority / "ca.pem")
    files = {
        "root_certificates": str(authority / "ca.pem"),
        "private_key": str(authority / "client.key"),
        "certificate_chain": str(authority / "client.pem"),
    }
    with fronted(program, inner, tmp_path, tls=tls) as (_, outer):
        with triton_client.InferenceServerClient(outer.grpc, ssl=True, **files) as client:
            assert ask(client) == b"r1"
        with triton_client.InferenceServerClient(
            outer.grpc, ssl=True, root_certificates=files["root_certificates"]
        ) as client:
            assert refusal(lambda: ask(client))[0] == "UNAVAILABLE"
        with triton_client.InferenceServerClient(outer.grpc) as client:
            assert refusal(lambda: ask(client, client_timeout=5))[0] == "UNAVAILABLE"
        shown = (
            f"--root-certificates {authority}/ca.pem --certificate {authority}/client.pem --key {authority}/client.key"
        )
        for line in ("recommend 7", "log-event 7 like --item 5"):
            assert CliRunner().invoke(app, [*line.split(), "--url", outer.grpc, *shown.split()]).exit_code == 0
            assert CliRunner().invoke(app, [*line.split(), "--url", outer.grpc, *shown.split()[:2]]).exit_code != 0
        for url in (outer.http, outer.metrics):
            bare = ["curl", "-sS", "--cacert", files["root_certificates"], url.replace("http:", "https:")]
            with_certificate = [*bare, "--cert", files["certificate_chain"], "--key", files["private_key"]]
            assert subprocess.run(bare, capture_output=True).returncode != 0
            assert subprocess.run(with_certificate, capture_output=True).returncode == 0


def test_health_needs_no_certificate_and_metrics_can_be_watched_with_one(
    program, inner, authority, tmp_path, monkeypatch
) -> None:
    tls = Tls(certificate=authority / "both.pem", client_ca=authority / "ca.pem")
    metrics = tmp_path / "metrics"
    metrics.write_text("pinrec_ready 1\n")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), handler) as exporter,
        fronted(program, replace(inner, metrics_port=exporter.server_port), tmp_path, tls=tls) as (_, outer),
    ):
        threading.Thread(target=exporter.serve_forever, daemon=True).start()
        curl = ["curl", "-sS", "-o", os.devnull, "-w", "%{http_code}", "--cacert", str(authority / "ca.pem")]

        def without_certificate(path: str) -> str:
            url = f"{outer.http}{path}".replace("http:", "https:")
            return subprocess.run([*curl, url], capture_output=True, text=True).stdout

        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/pinrec/ready"):
            assert without_certificate(path) == "200"
        for path in ("/v2/models/stats", "/v2/models/pinrec/config", "/v2/models/pinrec/infer"):
            assert without_certificate(path) == "000"  # no answer at all

        # What Compose runs in the container, told of TLS as there.
        monkeypatch.setenv("PINREC_TLS_CERTIFICATE", str(tls.certificate))
        compose = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
        program_text = compose["services"]["tritonserver"]["healthcheck"]["test"][-1]
        assert ":8000/" in program_text
        health = [sys.executable, "-c", program_text.replace(":8000/", f":{outer.http_port}/")]
        assert subprocess.run(health, capture_output=True).returncode == 0

        top = ["top", "--once", "--json", "--interval", "0.1", "--url", f"https://{outer.host}:{outer.metrics_port}"]
        trusting = [*top, "--root-certificates", str(authority / "ca.pem")]
        showing = [*trusting, "--certificate", str(authority / "client.pem"), "--key", str(authority / "client.key")]
        shown = CliRunner().invoke(app, showing)
        assert json.loads(shown.stdout)["ready"] is True
        for arguments in (top, trusting):
            assert isinstance(CliRunner().invoke(app, arguments).exception, ServerError)
        exporter.shutdown()


def test_a_front_that_is_killed_comes_back(program, inner, tmp_path) -> None:
    with fronted(program, inner, tmp_path) as (front, outer):
        assert front._process is not None
        os.kill(front._process.pid, signal.SIGKILL)
        front._process.wait()
        front.keep_running()
        with triton_client.InferenceServerClient(outer.grpc) as client:
            assert ask(client) == b"r1"
        with urllib.request.urlopen(f"{outer.metrics}/front") as answer:
            assert b"haproxy_backend_http_responses_total" in answer.read()


def test_a_server_that_is_gone_is_unavailable(program, tmp_path) -> None:
    with (
        fronted(program, free_endpoint(), tmp_path) as (_, outer),
        triton_client.InferenceServerClient(outer.grpc) as client,
    ):
        began = time.monotonic()
        assert refusal(lambda: ask(client, client_timeout=30))[0] == "UNAVAILABLE"
        assert time.monotonic() - began < 20, "it was the client that gave up"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("", "key 1"), (KEY, "key 1"), ("A" * 64, "key 1"), ("a" * 64 + " feed\n" + "b" * 63, "key 2")],
)
def test_a_file_of_keys_holds_their_sums(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ConfigError, match=sentence) as caught:
        FrontOptions(api_keys=tmp_path / "keys")
    assert not text or text.split()[-1] not in str(caught.value)


def test_tls_and_keys_need_the_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "server.pem").touch()
    options = FrontOptions(tls=Tls(certificate=tmp_path / "server.pem"))
    with pytest.raises(ConfigError, match="haproxy, for TLS and keys"):
        find_haproxy(FrontChoice.NONE, options)
    monkeypatch.setattr(module, "PROGRAM_FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_haproxy(FrontChoice.AUTO, FrontOptions()) is None
    for choice, wanted in ((FrontChoice.AUTO, options), (FrontChoice.HAPROXY, FrontOptions())):
        with pytest.raises(ServerError, match="not installed"):
            find_haproxy(choice, wanted)
