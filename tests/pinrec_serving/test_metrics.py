"""The endpoint: one answer with the metrics of the owner, of the stages and of Triton, whatever of these is there."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pinrec_core.errors import ServerError
from pinrec_core.release.format import Release
from pinrec_serving.metrics import AT_ONCE, MetricsServer, with_release_label
from pinrec_serving.service_metrics import SERVICE_METRICS
from tests.pinrec_serving.conftest import free_endpoint
from tests.pinrec_serving.recording import Recording

TRITON = """# HELP nv_inference_count Number of inferences
# TYPE nv_inference_count counter
nv_inference_count{model="pinrec",version="1"} 9
nv_inference_count{model="generator__r1",version="1"} 4
nv_inference_count{model="generator__2026.01_a__b",version="1"} 5
"""


@pytest.fixture
def triton_metrics() -> Iterator[str]:
    """The URL of a stand-in for Triton's metrics port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(TRITON.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()


@pytest.fixture
def server(triton_metrics: str, tmp_path: Path) -> Iterator[MetricsServer]:
    with MetricsServer(
        host="127.0.0.1", port=free_endpoint().metrics_port, triton=triton_metrics, folder=tmp_path,
        triton_pid=os.getppid, disks={"signals": tmp_path, "gone": tmp_path / "gone"},
    ) as server:  # fmt: skip
        yield server


def samples(server: MetricsServer) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(server.text().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_one_answer_has_everything(server: MetricsServer, tmp_path: Path) -> None:
    with Recording(tmp_path, "generator", "r1") as stage:
        stage.record("pinrec_requests_total", 2, "ok")
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            text = answer.read().decode()
        found = samples(server)
    assert 'pinrec_requests_total{release="r1",result="ok",stage="generator"} 2.0' in text
    assert 'nv_inference_count{model="generator",release="r1",version="1"} 4' in text
    memory = {labels["stage"]: value for labels, value in found["pinrec_process_resident_memory_bytes"]}
    assert set(memory) == {"owner", "triton", "generator"}
    assert min(memory.values()) > 1 << 20
    assert found["pinrec_triton_up"] == [({}, 1.0)]
    assert [labels for labels, _ in found["pinrec_disk_free_bytes"]] == [{"folder": "signals"}]


def test_what_the_owner_measures(server: MetricsServer, world: Path) -> None:
    service = server.service
    service.ready_while(lambda: True)
    for release_id in ("r1", "r2"):
        service.serves(Release.open(world / "releases" / release_id).manifest)
    service.restarted("generator", "r2")
    service.swapped(ok=True, seconds=2.5)
    service.swapped(ok=False, seconds=1.5)
    service.refused("overload", 7)
    service.refused("overload", 9)
    found = samples(server)
    assert found["pinrec_ready"] == [({}, 1.0)]
    assert [labels["release"] for labels, _ in found["pinrec_release_info"]] == ["r2"]  # the earlier one is gone
    assert found["pinrec_release_created_timestamp_seconds"] == [({"release": "r2"}, 1767225600.0)]  # 2026-01-01 UTC
    restarts = {(labels["stage"], labels["release"]): value for labels, value in found["pinrec_stage_restarts_total"]}
    assert restarts["generator", "r2"] == 1
    assert restarts["signal_fetch", "r2"] == restarts["signal_ingest", ""] == 0
    assert found["pinrec_swaps_total"] == [({"result": "ok"}, 1.0), ({"result": "failed"}, 1.0)]
    assert found["pinrec_last_swap_seconds"] == [({}, 1.5)]
    assert found["pinrec_refused_requests_total"] == [({"reason": "overload"}, 9.0)]
    assert {metric.name for metric in SERVICE_METRICS} <= set(found)


def test_without_triton_the_others_are_shown(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/metrics"
    with MetricsServer(host="127.0.0.1", port=free_endpoint().metrics_port, triton=url, folder=tmp_path) as server:
        found = samples(server)
    assert found["pinrec_triton_up"] == [({}, 0.0)]
    assert "pinrec_ready" in found


def test_a_release_in_a_models_name_becomes_a_label() -> None:
    assert with_release_label(TRITON).splitlines()[2:] == [
        'nv_inference_count{model="pinrec",version="1"} 9',
        'nv_inference_count{model="generator",release="r1",version="1"} 4',
        'nv_inference_count{model="generator",release="2026.01_a__b",version="1"} 5',
    ]


def test_only_metrics_are_served_and_a_taken_port_is_said(server: MetricsServer, tmp_path: Path) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", "/etc/passwd")
    assert connection.getresponse().status == 404
    second = MetricsServer(host="127.0.0.1", port=server.port, triton="http://127.0.0.1:1", folder=tmp_path)
    with pytest.raises(ServerError, match="expected a free port"), second:
        pass


def test_files_do_not_pile_up_where_nobody_asks(server: MetricsServer, tmp_path: Path) -> None:
    assert server._server is not None
    with Recording(tmp_path, "generator", "r1") as stage:
        stage.record("pinrec_requests_total", 2, "ok")
    server._server._clean_at = 0.0  # as a minute later
    end = time.monotonic() + 60
    while any(path.name.endswith(f"_{stage.pid}.db") for path in tmp_path.iterdir()):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert 'pinrec_requests_total{release="r1",result="ok",stage="generator"} 2.0' in server.text().decode()


def test_those_who_connect_and_say_nothing_are_bounded(server: MetricsServer) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(AT_ONCE)]
    more = socket.create_connection(("127.0.0.1", server.port))
    more.settimeout(30)
    assert more.recv(1) == b"", "the one more is turned away, and does not wait for the others"
    for connection in [*idle, more]:
        connection.close()


def test_prometheus_finds_nothing_to_criticise_in_our_names(server: MetricsServer, tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool: apt-get install prometheus")
    with Recording(tmp_path, "signal_fetch", "r1"):
        text = server.text()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60)
    said = (done.stdout + done.stderr).decode()
    assert [line for line in said.splitlines() if not line.startswith("nv_")] == []
