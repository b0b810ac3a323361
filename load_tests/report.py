"""The report of a load test: latency and failures by request type, as tables and as JSON.

Locust has statistics of its own, but they round latencies to two digits and include the warm-up. These do neither.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from load_tests.server_statistics import ModelTime

TOTAL = "all"

_REQUEST_ID = re.compile(r"\b[0-9a-f]{32}\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeResult:
    """The figures of one request type.

    Latencies are in milliseconds. They include failed requests: a request that timed out lasted for its timeout.
    """

    requests: int
    requests_per_second: float
    failures: int
    p50: float
    p95: float
    p99: float
    slowest: float

    @property
    def failure_share(self) -> float:
        return self.failures / self.requests


class Recorder:
    """A listener for Locust's ``request`` event. It keeps the requests whose scheduled arrival is in [start, end).

    ``start`` and ``end`` are in monotonic seconds.
    """

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, end
        self._latencies: dict[str, list[float]] = defaultdict(list)
        self._failures: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()  # message → number of failures with it

    def __call__(
        self, name: str, response_time: float, exception: Exception | None, context: Mapping[str, Any], **_: Any
    ) -> None:
        if not self.start <= context["arrival"] < self.end:
            return
        self._latencies[name].append(response_time)
        if exception is not None:
            self._failures[name] += 1
            self.errors[_sentence(exception)] += 1

    def results(self) -> dict[str, TypeResult]:
        """Figures by request type, in alphabetical order, and at the end those of all requests together."""
        results = {n: self._result(self._latencies[n], self._failures[n]) for n in sorted(self._latencies)}
        every = [latency for latencies in self._latencies.values() for latency in latencies]
        if every:
            results[TOTAL] = self._result(every, self._failures.total())
        return results

    def _result(self, latencies: list[float], failures: int) -> TypeResult:
        p50, p95, p99, slowest = (float(p) for p in np.percentile(latencies, [50, 95, 99, 100]))
        return TypeResult(
            requests=len(latencies),
            requests_per_second=len(latencies) / (self.end - self.start),
            failures=failures,
            p50=p50,
            p95=p95,
            p99=p99,
            slowest=slowest,
        )


def _sentence(error: Exception) -> str:
    """Class and first line of a failure, without its request id, so that equal failures are counted together."""
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {_REQUEST_ID.sub('…', first_line)[:160]}"


def result_table(results: Mapping[str, TypeResult]) -> Table:
    table = Table(title="requests", caption="milliseconds from the scheduled arrival to the answer")
    table.add_column("request type", no_wrap=True)
    for heading in ("requests", "requests/s", "p50", "p95", "p99", "slowest", "failures", "share"):
        table.add_column(heading, justify="right")
    for name, r in results.items():
        if name == TOTAL:
            table.add_section()
        times = [f"{t:.1f}" for t in (r.p50, r.p95, r.p99, r.slowest)]
        counts = [str(r.failures), f"{r.failure_share:.2%}"]
        table.add_row(name, str(r.requests), f"{r.requests_per_second:.1f}", *times, *counts)
    return table


def model_table(models: Mapping[str, ModelTime]) -> Table:
    table = Table(title="inside the server", caption="mean milliseconds per request, and requests per execution")
    table.add_column("model", no_wrap=True)
    for heading in ("requests", "queue", "compute", "batch"):
        table.add_column(heading, justify="right")
    for name, m in models.items():
        table.add_row(name, str(m.requests), f"{m.queue_ms:.2f}", f"{m.compute_ms:.2f}", f"{m.batch_size:.2f}")
    return table


def error_table(errors: Counter[str]) -> Table:
    table = Table(title="failures")
    table.add_column("times", justify="right")
    table.add_column("error", overflow="fold")
    for sentence, times in errors.most_common(10):
        table.add_row(str(times), sentence)
    return table


def document(
    settings: Mapping[str, Any], recorder: Recorder, results: Mapping[str, TypeResult], models: Mapping[str, ModelTime]
) -> dict[str, Any]:
    """The whole report as one JSON object."""
    return {
        "settings": dict(settings),
        "results": {name: {**asdict(r), "failure_share": r.failure_share} for name, r in results.items()},
        "models": {name: asdict(m) for name, m in models.items()},
        "errors": dict(recorder.errors.most_common()),
    }
