"""Requests and reports whose figures are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pinrec_client import DeadlineExceededError, ServerError, UnavailableError

from load_tests.machine import MachineCard
from load_tests.memory import MemoryResult, MemorySample
from load_tests.recorder import Recorder
from load_tests.report import DriverResult, Report, StageInterval
from load_tests.results import FreshnessResult, Saturation, StepResult, by_type, timeline
from load_tests.server_statistics import ModelTime
from load_tests.shapes import Shape
from load_tests.slo import Verdict

REFUSED, TIMED_OUT, FAILED = UnavailableError("full"), DeadlineExceededError("late"), ServerError("broken")

Record = Callable[..., None]


def record(
    recorder: Recorder,
    *,
    arrival: float,
    latency: float = 10.0,
    name: str = "a",
    error: Exception | None = None,
    late: float = 0.0,
    kind: str = "gRPC",
) -> None:
    """Call a recorder as Locust does, which passes more than the recorder reads."""
    recorder(
        request_type=kind,
        name=name,
        response_time=latency,
        response_length=3,
        exception=error,
        context={"arrival": recorder.origin + arrival, "late_ms": late},
    )


def step(rate: float, saturated: str = "", **figures: Any) -> StepResult:
    """A step of a ramp, all of which is answered unless ``figures`` say otherwise."""
    values = {
        "name": f"step at {rate:g}", "rate": rate, "offered": rate, "goodput": rate, "refused": 0.0,
        "failure_share": 0.0, "p50": 10.0, "p99": 20.0, "late_p99": 0.5,
    }  # fmt: skip
    return StepResult(**values | figures, saturated=saturated)


def report(**changes: Any) -> Report:
    """The report of a ramp of ten seconds, with everything that a report can hold but a spike."""
    recorder = Recorder(100.0)
    for second in range(10):
        record(recorder, arrival=second + 0.1, latency=20.0)
        record(recorder, arrival=second + 0.2, latency=1.0, error=REFUSED, name="<b>&")
    requests = recorder.requests()
    stages = {"generator": ModelTime(requests=4, queue_ms=1.0, compute_ms=5.0, batch_size=2.0)}
    values: dict[str, Any] = {
        "shape": Shape.RAMP,
        "settings": {"rate": 2.0, "dataset": "demo/dataset", "html": None},
        "machine": MachineCard(
            cpu="a processor", cores=2, memory_gib=4.0, versions={"python": "3.11"}, date="a day", load_average=0.5
        ),
        "start": 0.0,
        "end": 10.0,
        "results": by_type(requests, 10.0),
        "errors": requests.error_counts(),
        "timeline": timeline(requests, 0.0, 10.0, 1.0),
        "models": {
            "generator__r1": ModelTime(requests=30, queue_ms=1.0, compute_ms=5.0, batch_size=2.0),
            "generator__r2": ModelTime(requests=10, queue_ms=5.0, compute_ms=9.0, batch_size=1.0),
            "pinrec": ModelTime(requests=40, queue_ms=0.0, compute_ms=9.0, batch_size=1.0),
        },
        "stage_timeline": [StageInterval(time=1.0, stages=stages), StageInterval(time=2.0, stages=stages)],
        "missed_readings": 1,
        "driver": DriverResult(share=0.07, late_p50_ms=0.1, late_p99_ms=3.0),
        "freshness": FreshnessResult(probes=3, invisible=0, undecided=1, p50=15.0, p99=25.0),
        "steps": [step(10.0), step(20.0, "p99 300 ms, allowed 250 ms", p99=300.0), step(40.0, "5.0% refused")],
        "saturation": Saturation(held=10.0, saturated_at=20.0, reason="p99 300 ms, allowed 250 ms"),
        "spike": None,
        "spike_at": None,
        "memory": MemoryResult(first=600.0, last=610.0, highest=611.0, slope=2.0, low=-1.0, high=5.0),
        "memory_samples": [MemorySample(0.0, 600.0, 5), MemorySample(5.0, 610.0, 5)],
        "interrupted": False,
        "verdicts": [Verdict("p99_ms", "all", "≤ 250.0 ms", "20.0 ms", True)],
    }
    return Report(**values | changes)
