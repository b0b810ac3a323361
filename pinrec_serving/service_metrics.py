"""What the owner of a server measures: which release serves since when, restarts, swaps, refusals, processes, disks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family

from pinrec_core.contract import PIPELINE, SIGNAL_INGEST, StageSpec
from pinrec_core.release.format import ReleaseManifest
from pinrec_core.stages.metrics import Kind, Metric
from pinrec_serving.stage_files import MeasuredProcess

READY = Metric("pinrec_ready", Kind.GAUGE, "", "1 while the service answers requests, 0 while it starts or drains.")
RELEASE_INFO = Metric(
    "pinrec_release_info", Kind.GAUGE, "", "1 for the release that serves.", ("release", "dataset", "variant", "index")
)
RELEASE_CREATED = Metric(
    "pinrec_release_created_timestamp_seconds", Kind.GAUGE, "", "The Unix time at which the release was made.",
    ("release",),
)  # fmt: skip
SERVING_SINCE = Metric(
    "pinrec_serving_since_timestamp_seconds", Kind.GAUGE, "", "The Unix time since which the release serves.",
    ("release",),
)  # fmt: skip
RESTARTS = Metric(
    "pinrec_stage_restarts_total", Kind.COUNTER, "", "Stages that were loaded again because their process had ended.",
    ("stage", "release"),
)  # fmt: skip
SWAPS = Metric("pinrec_swaps_total", Kind.COUNTER, "", "Swaps to another release, by how they ended.", ("result",))
SWAP_SECONDS = Metric(
    "pinrec_last_swap_seconds", Kind.GAUGE, "", "What the last swap took, from its signal to its end."
)
REFUSED = Metric(
    "pinrec_refused_requests_total", Kind.COUNTER, "",
    "Requests that were refused before they reached a stage, such as for want of capacity.", ("reason",),
)  # fmt: skip
TRITON_UP = Metric("pinrec_triton_up", Kind.GAUGE, "", "1 if Triton's own metrics could be read for this answer.")
DISK_FREE = Metric(
    "pinrec_disk_free_bytes", Kind.GAUGE, "", "Free space of the disk that holds a folder of the service.", ("folder",)
)
DISK_SIZE = Metric("pinrec_disk_size_bytes", Kind.GAUGE, "", "Size of that disk.", ("folder",))
PROCESS_LABELS = ("stage", "release", "pid")
"""Of each process. The stage is ``triton`` for Triton itself and ``owner`` for the process of `pinrec serve`."""
PROCESS_MEMORY = Metric(
    "pinrec_process_resident_memory_bytes", Kind.GAUGE, "",
    "Resident memory of a process, with the pages of mapped files, which processes share.", PROCESS_LABELS,
)  # fmt: skip
PROCESS_CPU = Metric(
    "pinrec_process_cpu_seconds_total", Kind.COUNTER, "", "CPU time of a process, user and system.", PROCESS_LABELS
)
PROCESS_START = Metric(
    "pinrec_process_start_time_seconds", Kind.GAUGE, "", "The Unix time at which a process started.", PROCESS_LABELS
)
PROCESS_FILES = Metric("pinrec_process_open_fds", Kind.GAUGE, "", "Open file descriptors of a process.", PROCESS_LABELS)

PROCESS_METRICS = (PROCESS_MEMORY, PROCESS_CPU, PROCESS_START, PROCESS_FILES)
SERVICE_METRICS = (
    READY, RELEASE_INFO, RELEASE_CREATED, SERVING_SINCE, RESTARTS, SWAPS, SWAP_SECONDS, REFUSED, TRITON_UP,
    DISK_FREE, DISK_SIZE, *PROCESS_METRICS,
)  # fmt: skip
"""The table, beside that of the stages (``pinrec_core.stages.metrics``)."""
SWAP_RESULTS = ("ok", "failed")

disable_created_metrics()  # a series for the birth of each counter, which nobody asks for


class ServiceMetrics:
    """The owner's metrics, for as long as it runs. Its functions may be called from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._ready = self._gauge(READY)
        self._info = self._gauge(RELEASE_INFO)
        self._created = self._gauge(RELEASE_CREATED)
        self._since = self._gauge(SERVING_SINCE)
        self._restarts = self._counter(RESTARTS)
        self._swaps = self._counter(SWAPS)
        self._swap_seconds = self._gauge(SWAP_SECONDS)
        self._refused: dict[str, float] = {}
        for result in SWAP_RESULTS:
            self._swaps.labels(result)
        self._restarts.labels(SIGNAL_INGEST.name, "")
        self.registry.register(self)  # type: ignore[arg-type]  # for the refusals, which are counted elsewhere

    def ready_while(self, is_ready: Callable[[], bool]) -> None:
        """``is_ready`` says whether requests are answered; it is asked whenever the metrics are read."""
        self._ready.set_function(is_ready)

    def serves(self, manifest: ReleaseManifest, stages: Iterable[StageSpec] = PIPELINE) -> None:
        """This release serves from now on with these stages, and no other release does."""
        release = manifest.release_id
        for gauge in (self._info, self._created, self._since):
            gauge.clear()
        variant, index = manifest.model.variant.value, manifest.calibration.index_type
        self._info.labels(release, manifest.dataset.name, variant, index).set(1)
        self._created.labels(release).set(_unix_time(manifest.created_at))
        self._since.labels(release).set(time.time())
        for spec in stages:
            self._restarts.labels(spec.name, release)  # from 0 on, so that the first restart is an increase

    def restarted(self, stage: str, release: str) -> None:
        """A stage was loaded again because its process had ended. ``release`` is empty for ``signal_ingest``."""
        self._restarts.labels(stage, release).inc()

    def swapped(self, *, ok: bool, seconds: float) -> None:
        """A swap ended, after so many seconds."""
        self._swaps.labels(SWAP_RESULTS[0] if ok else SWAP_RESULTS[1]).inc()
        self._swap_seconds.set(seconds)

    def refused(self, reason: str, total: float) -> None:
        """How many requests were refused for a reason since the service started, as whoever refuses them counts."""
        self._refused[reason] = total

    def collect(self) -> Iterable[Family]:
        family = CounterMetricFamily(REFUSED.name, REFUSED.help, labels=REFUSED.labels)
        for reason, total in sorted(self._refused.items()):
            family.add_metric([reason], total)
        return [family]

    def _gauge(self, metric: Metric) -> Gauge:
        return Gauge(metric.name, metric.help, metric.labels, registry=self.registry)

    def _counter(self, metric: Metric) -> Counter:
        return Counter(metric.name, metric.help, metric.labels, registry=self.registry)


class Processes:
    """A collector: what the processes of the service use. ``listed`` names them, whenever it is asked."""

    def __init__(self, listed: Callable[[], Iterable[MeasuredProcess]]) -> None:
        self._listed = listed

    def collect(self) -> Iterable[Family]:
        families = {metric.name.removesuffix("_total"): _family(metric) for metric in PROCESS_METRICS}
        for process in self._listed():
            pid = process.pid
            for found in ProcessCollector(namespace="pinrec", pid=partial(int, pid), registry=None).collect():
                if found.name in families:
                    families[found.name].add_metric([process.stage, process.release, str(pid)], found.samples[0].value)
        return families.values()


class Disks:
    """A collector: how full the disks are that hold ``folders``, by the name that each is shown under."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders

    def collect(self) -> Iterable[Family]:
        free, size = _family(DISK_FREE), _family(DISK_SIZE)
        for name, path in self._folders.items():
            try:
                usage = shutil.disk_usage(path)
            except OSError:  # the folder is not there now
                continue
            free.add_metric([name], usage.free)
            size.add_metric([name], usage.total)
        return [free, size]


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    return kind(metric.name, metric.help, labels=metric.labels)


def _unix_time(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()
