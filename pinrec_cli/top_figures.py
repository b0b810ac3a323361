"""What ``pinrec top`` shows, from two readings of a service's metrics."""

from __future__ import annotations

import ssl
import time
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from pinrec_core.errors import ServerError

READ_SECONDS = 5.0
FAILED = ("unavailable", "internal")


class Reading:
    """All metrics of a service at one moment. ``sum`` adds up the series that have all of the given labels.

    Counters are known with ``_total`` and without: Triton's have no such end, and the parser adds one.
    """

    def __init__(self, text: str, moment: float) -> None:
        self.moment = moment
        self._series: dict[str, list[tuple[Mapping[str, str], float]]] = defaultdict(list)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._series[_bare(sample.name)].append((sample.labels, sample.value))

    @staticmethod
    def of(url: str, tls: ssl.SSLContext | None = None) -> Reading:
        """Raises ``ServerError`` when nobody answers there, or not with metrics."""
        try:
            with urllib.request.urlopen(url, timeout=READ_SECONDS, context=tls) as answer:
                return Reading(answer.read().decode("utf-8"), time.monotonic())
        except (OSError, ValueError) as error:
            raise ServerError(f"{url}: expected the metrics of a service ({error})") from error

    def labels(self, name: str) -> list[Mapping[str, str]]:
        return [labels for labels, _ in self._series.get(_bare(name), [])]

    def count(self, name: str, **wanted: str) -> int:
        return len(self._chosen(name, wanted))

    def sum(self, name: str, **wanted: str) -> float:
        return sum(self._chosen(name, wanted))

    def value(self, name: str, **wanted: str) -> float | None:
        """Of the one series that has these labels; None where there is none, or none yet."""
        found = [value for value in self._chosen(name, wanted) if value == value]  # NaN before the first request
        return found[0] if found else None

    def _chosen(self, name: str, wanted: Mapping[str, str]) -> list[float]:
        return [
            value
            for labels, value in self._series.get(_bare(name), [])
            if all(labels.get(label, "") == text for label, text in wanted.items())
        ]


def _bare(name: str) -> str:
    return name.removesuffix("_total")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFigures:
    """One stage of one release. Times and sizes are means over the requests in between, None where there were none."""

    stage: str
    release: str
    processes: int
    requests_per_second: float
    failed: int  # since the processes started, as are the next two
    invalid: int
    restarts: int
    queue_ms: float | None
    compute_ms: float | None
    batch: float | None
    pending: int
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A service. ``release`` is what serves, ``since`` when it began to (Unix seconds). ``p50_ms`` and ``p99_ms`` are
    of whole requests, as Triton counts them."""

    ready: bool
    release: str
    since: float | None
    requests_per_second: float
    refused_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    swaps_failed: int
    stages: list[StageFigures]


def figures(before: Reading, now: Reading) -> Figures:
    """What happened from one reading to the next."""
    seconds = max(now.moment - before.moment, 1e-9)

    def grown(name: str, **wanted: str) -> float:
        return max(now.sum(name, **wanted) - before.sum(name, **wanted), 0.0)  # a process that is new counts from 0

    def mean(total: str, number: str, **wanted: str) -> float | None:
        n = grown(number, **wanted)
        return grown(total, **wanted) / n if n else None

    info = now.labels("pinrec_release_info")
    pairs = dict.fromkeys((labels["stage"], labels["release"]) for labels in now.labels("pinrec_requests_total"))
    stages = []
    for stage, release in pairs:
        ours, triton = {"stage": stage, "release": release}, {"model": stage, "release": release}
        queue = mean("nv_inference_queue_duration_us", "nv_inference_request_success", **triton)
        compute = mean("pinrec_compute_seconds_sum", "pinrec_compute_seconds_count", **ours)
        stages.append(
            StageFigures(
                **ours,
                processes=now.count("pinrec_process_resident_memory_bytes", **ours),
                requests_per_second=grown("pinrec_requests_total", **ours) / seconds,
                failed=int(sum(now.sum("pinrec_requests_total", result=result, **ours) for result in FAILED)),
                invalid=int(now.sum("pinrec_requests_total", result="invalid", **ours)),
                restarts=int(now.sum("pinrec_stage_restarts_total", **ours)),
                queue_ms=None if queue is None else queue / 1e3,
                compute_ms=None if compute is None else compute * 1e3,
                batch=mean("pinrec_batch_requests_sum", "pinrec_batch_requests_count", **ours),
                pending=int(now.sum("nv_inference_pending_request_count", **triton)),
                memory_bytes=int(now.sum("pinrec_process_resident_memory_bytes", **ours)),
            )
        )
    quantile = {q: now.value("nv_inference_request_summary_us", model="pinrec", quantile=q) for q in ("0.5", "0.99")}
    p50, p99 = (None if value is None else value / 1e3 for value in quantile.values())
    return Figures(
        ready=now.sum("pinrec_ready") > 0,
        release=info[0]["release"] if info else "",
        since=now.value("pinrec_serving_since_timestamp_seconds"),
        requests_per_second=grown("nv_inference_request_success", model="pinrec") / seconds,
        refused_per_second=grown("pinrec_refused_requests_total") / seconds,
        p50_ms=p50,
        p99_ms=p99,
        swaps_failed=int(now.sum("pinrec_swaps_total", result="failed")),
        stages=stages,
    )
