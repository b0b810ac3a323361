"""The figures of a report, from requests whose figures are known."""

from __future__ import annotations

import pytest

from load_tests.report import TOTAL, Recorder
from load_tests.server_statistics import ModelTime, _Counters, between


def _record(recorder: Recorder, name: str, latency: float, arrival: float, error: Exception | None = None) -> None:
    # Locust passes these arguments, of which the recorder reads only some.
    recorder(
        request_type="gRPC",
        name=name,
        response_time=latency,
        response_length=3,
        exception=error,
        context={"arrival": arrival},
    )


def test_percentiles_rates_and_failures():
    recorder = Recorder(start=10.0, end=20.0)
    for latency in range(1, 101):
        _record(recorder, "a", float(latency), 15.0)
    _record(recorder, "b", 7.0, 15.0, ValueError(f"first line (request_id={1:032x})\nsecond"))
    _record(recorder, "b", 9.0, 15.0, ValueError(f"first line (request_id={2:032x})"))
    results = recorder.results()
    assert list(results) == ["a", "b", TOTAL]
    assert (results["a"].requests, results["a"].requests_per_second, results["a"].failures) == (100, 10.0, 0)
    # numpy interpolates between the neighbouring ranks: 1 + 0.5·99, 1 + 0.95·99, 1 + 0.99·99
    assert (results["a"].p50, results["a"].p95, results["a"].p99) == pytest.approx((50.5, 95.05, 99.01))
    assert results["a"].slowest == 100.0
    assert results["b"].failure_share == 1.0
    assert (results[TOTAL].requests, results[TOTAL].failures) == (102, 2)
    assert dict(recorder.errors) == {"ValueError: first line (request_id=…)": 2}


def test_only_arrivals_of_the_measured_time_count():
    recorder = Recorder(start=10.0, end=20.0)
    for arrival in (9.9, 10.0, 19.9, 20.0):
        _record(recorder, "a", arrival, arrival)
    assert recorder.results()["a"].requests == 2


def test_no_request_no_result():
    assert Recorder(0, 1).results() == {}


def test_server_time_between_two_readings():
    before = {
        "generator": _Counters(requests=10, executions=10, queue_ns=10_000_000, compute_ns=50_000_000),
        "idle": _Counters(requests=3, executions=3, queue_ns=1, compute_ns=1),
        "reloaded": _Counters(requests=100, executions=100, queue_ns=1, compute_ns=1),
    }
    after = {
        "generator": _Counters(requests=30, executions=15, queue_ns=30_000_000, compute_ns=150_000_000),
        "idle": before["idle"],
        "reloaded": _Counters(requests=2, executions=1, queue_ns=2_000_000, compute_ns=4_000_000),
    }
    assert between(before, after) == {
        "generator": ModelTime(requests=20, queue_ms=1.0, compute_ms=5.0, batch_size=4.0),
        "reloaded": ModelTime(requests=2, queue_ms=1.0, compute_ms=2.0, batch_size=2.0),
    }
