"""A real Prometheus reads a real service, and every query of the alerts and of the dashboard is put to it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_client
import yaml
from pinrec_client import Event, InvalidRequestError

from pinrec_core.contract import PIPELINE
from tests.docker.test_observe import ALERTS, OBSERVE, expressions
from tests.end_to_end.conftest import Collector, pinrec

pytestmark = pytest.mark.triton

NOT_HERE = (
    "pinrec_refused_requests_total",  # nothing was refused
    "pinrec_recall_found_total",  # an index that is searched exactly is not sampled
)
"""Metrics without a series in this test: queries that name one have no result."""
SUBSTITUTES = {"$__rate_interval": "30s", "$instance": ".*", "$release": ".*", "$stage": ".*"}
"""What Grafana would put in the place of its variables."""


class Prometheus:
    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, expression: str) -> list[dict]:
        """The series of an expression at this moment. Raises ``HTTPError`` where it cannot be evaluated."""
        url = f"{self._url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]["result"]


@pytest.fixture
def prometheus(ml100k_server, tmp_path):
    """The project's own configuration, with this service as its target and a second between two readings."""
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus: apt-get install prometheus")
    target = urllib.parse.urlsplit(ml100k_server.ready["metrics"]).netloc
    configuration = yaml.safe_load((OBSERVE / "prometheus.yml").read_text("utf-8"))
    (ours,) = [job for job in configuration["scrape_configs"] if job["job_name"] == "pinrec"]
    ours.pop("dns_sd_configs")
    ours["static_configs"] = [{"targets": [target]}]
    configuration["scrape_configs"] = [ours]
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration), "utf-8")
    shutil.copy(OBSERVE / "rules.yml", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port = chosen.getsockname()[1]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(timeout=30)


def ask(server) -> None:
    """Requests of users with and without a history, a malformed one, and an event."""
    with server.client() as client:
        for user in (1, 2, 999_999_999):
            client.recommend(user, num_items=10)
        with pytest.raises(InvalidRequestError):
            client.recommend(1, surface="the moon")
        client.log_events([Event(user_id=1, item_id=50, action="like", timestamp=int(time.time()))])


def read(prometheus: Prometheus, times: int) -> int:
    """How often the service was read, once that is at least ``times``."""
    end = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError):  # it is starting
            found = prometheus.query('count_over_time(up{job="pinrec"}[10m])')
            if found and (count := int(found[0]["value"][1])) >= times:
                return count
        assert time.monotonic() < end, "the service was not read"
        time.sleep(0.2)


def test_every_query_of_the_alerts_and_the_dashboard_has_an_answer(ml100k_server, prometheus):
    ask(ml100k_server)
    before = read(prometheus, 2)
    ask(ml100k_server)  # between two readings, so that rates are above zero
    read(prometheus, before + 2)
    empty = []
    for expression in expressions():
        for name, value in SUBSTITUTES.items():
            expression = expression.replace(name, value)
        found = prometheus.query(expression)  # raises where it does not parse
        alert = any(rule["expr"] == expression for rule in ALERTS.values())
        if not (found or alert or any(name in expression for name in NOT_HERE)):
            empty.append(expression)
    assert empty == []
    # An alert that does not fire has no result. So at least what it is made of has to be there.
    for name, rule in ALERTS.items():
        for selector in re.findall(r"\b(?:pinrec|nv)_\w+(?:\{[^}]*\})?", rule["expr"]):
            if not selector.startswith(NOT_HERE) and "recall_wanted" not in selector:
                assert prometheus.query(selector), f"{name}: {selector} has no series"
    assert prometheus.query('up{job="pinrec"}')[0]["value"][1] == "1"


def test_top_shows_every_stage_and_the_release(ml100k_server):
    port = ml100k_server.ready["metrics"].removeprefix("http://").removesuffix("/metrics")
    ask(ml100k_server)
    shown = json.loads(pinrec("top", "--once", "--json", "--interval", 0.1, "--url", port).stdout)
    assert shown["ready"]
    assert shown["release"] == ml100k_server.ready["release"]
    stages = {stage["stage"]: stage for stage in shown["stages"]}
    assert set(stages) == {"signal_fetch", "id_embedder", "generator", "faiss_retrieval", "signal_ingest"}
    assert all(stage["processes"] == 1 and stage["memory_bytes"] > 0 for stage in stages.values())
    assert stages["signal_fetch"]["invalid"] >= 1
    assert shown["p99_ms"] > 0


def span_below(parent: str, collector: Collector, *, seconds: float) -> dict[str, Any] | None:
    """The span of that parent, if it arrives in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := [span for span in collector.spans if span.get("parentSpanId") == parent]:
            return found[0]
        time.sleep(0.1)
    return None


def test_a_trace_of_a_caller_goes_on_through_every_stage(ml100k_server, collector):
    trace = "0af7651916cd43dd8448eb211c80319c"
    user = triton_client.InferInput("user_id", [1, 1], "INT64")
    user.set_data_from_numpy(np.array([[1]], np.int64))
    root = None
    with triton_client.InferenceServerClient(ml100k_server.url) as client:
        client.infer("pinrec", [user])
        for attempt in range(1, 11):  # nobody promises that a batch of spans arrives, which Triton sends once
            parent = f"{attempt:016x}"
            client.infer("pinrec", [user], headers={"traceparent": f"00-{trace}-{parent}-01"})
            if root := span_below(parent, collector, seconds=6.0):  # they are sent together, every few seconds
                break
    assert root is not None, "no span arrived"
    assert {span["traceId"] for span in collector.spans} == {trace}  # the other request was not sampled
    (ensemble,) = (span for span in collector.spans if span.get("parentSpanId") == root["spanId"])
    assert ensemble["name"] == "pinrec"
    below = [span for span in collector.spans if span.get("parentSpanId") == ensemble["spanId"]]
    named = {span["name"].partition("__")[0]: span for span in below}
    for spec in PIPELINE:
        assert int(named[spec.name]["startTimeUnixNano"]) < int(named[spec.name]["endTimeUnixNano"])
