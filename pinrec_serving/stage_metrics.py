"""The metrics of a stage process, in files that the owner of the server reads (``metrics``).

`prometheus_client` keeps the values of a process in mapped files of its own, in the folder that ``METRICS_VARIABLE``
names. Recording is a write to memory, so that no stage waits for a reader, and nothing is lost with the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

from pinrec_core.contract import PARTS, SOURCES
from pinrec_core.stages.metrics import (
    COMMON_LABELS,
    EVENT_USES,
    NO_METRICS,
    RESULTS,
    STAGE_METRICS,
    Kind,
    Metric,
    Metrics,
)

METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder for the metrics of processes that share it. `prometheus_client` reads it when it is imported."""
GAUGE_MODE: Literal["livemin"] = "livemin"
"""Of several processes of a stage the least value counts, and none of a process that has ended."""
KNOWN_VALUES = {"result": RESULTS, "source": SOURCES, "unavailable": PARTS[1:], "use": EVENT_USES}


def open_metrics(stage: str, release: str) -> Metrics:
    """Where this process records its metrics, with the labels ``stage`` and ``release``.

    Without an owner that collects them they are forgotten.
    """
    return PrometheusMetrics(stage, release) if os.environ.get(METRICS_VARIABLE) else NO_METRICS


class PrometheusMetrics:
    """``Metrics`` of one stage. Each value starts at 0, so that its first increase can be told from a new process."""

    def __init__(self, stage: str, release: str) -> None:
        # `prometheus_client` decides when it is imported whether its values lie in shared files.
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        registry = CollectorRegistry()  # nobody asks it: the owner reads the files
        self._common = (stage, release)
        self._family: dict[str, Counter | Gauge | Histogram] = {}
        self._update: dict[tuple[str, tuple[str, ...]], Callable[[float], None]] = {}
        for metric in STAGE_METRICS:
            if metric.stage not in ("", stage):
                continue
            labels = (*COMMON_LABELS, *metric.labels)
            match metric.kind:
                case Kind.COUNTER:
                    self._family[metric.name] = Counter(metric.name, metric.help, labels, registry=registry)
                case Kind.GAUGE:
                    self._family[metric.name] = Gauge(
                        metric.name, metric.help, labels, registry=registry, multiprocess_mode=GAUGE_MODE
                    )
                case Kind.HISTOGRAM:
                    self._family[metric.name] = Histogram(
                        metric.name, metric.help, labels, registry=registry, buckets=metric.buckets
                    )
            if metric.kind is not Kind.GAUGE and not metric.labels:
                self._update_of(metric, ())
            for values in (KNOWN_VALUES.get(name) for name in metric.labels):
                for value in values or ():
                    self._update_of(metric, (value,))

    def record(self, metric: Metric, value: float = 1, *labels: str) -> None:
        """See ``Metrics``. Raises ``KeyError`` for a metric that is not one of this stage."""
        update = self._update.get((metric.name, labels)) or self._update_of(metric, labels)
        update(value)

    def _update_of(self, metric: Metric, labels: tuple[str, ...]) -> Callable[[float], None]:
        from prometheus_client import Counter, Gauge

        series = self._family[metric.name].labels(*self._common, *labels)
        update: Callable[[float], None]
        if isinstance(series, Counter):
            update = series.inc
        elif isinstance(series, Gauge):
            update = series.set
        else:
            update = series.observe
        self._update[metric.name, labels] = update
        return update
