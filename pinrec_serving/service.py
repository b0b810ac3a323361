"""Runs a serving process from start to stop: starts Triton, deploys a release, reacts to signals, drains and stops.

On SIGHUP the service looks up the current release again and swaps to it. On SIGTERM or SIGINT it drains and stops; a
second one skips the draining. This module does not know how a release is chosen: the caller passes a function.
"""

from __future__ import annotations

import queue
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import PinRecError
from pinrec_core.release.format import Release
from pinrec_serving.deployment import Deployment, ServingOptions
from pinrec_serving.metrics import MetricsServer
from pinrec_serving.runtime import TritonServer
from pinrec_serving.service_metrics import ServiceMetrics

STOP = (signal.SIGTERM, signal.SIGINT)


def run_service(
    *,
    server: TritonServer,
    templates: Path,
    options: ServingOptions,
    choose_release: Callable[[], Path],
    drain_timeout: float,
    ready: Callable[[Release], None],
    report: Callable[[str], None],
) -> None:
    """Serve until a signal stops the service. Call it from the main thread, which handles signals.

    ``choose_release`` returns the folder of the release to serve, at the start and at each swap. ``ready`` is called
    once, when requests can be answered. ``report`` is called with a sentence about each step. Raises ``PinRecError``
    when the service cannot start or Triton ends by itself; a failed swap is only reported.
    """
    _on(STOP, _stop_at_once)
    release = _verified(choose_release())
    signals_manifest = DatasetManifest.load(options.signals) if options.signals is not None else None
    report("starting Triton")
    with server, _metrics_of(server, options) as metrics:
        deployment = Deployment(server, templates, options, report)
        try:
            if options.realtime is not None and signals_manifest is not None:
                deployment.deploy_ingest(signals_manifest)  # creates the store that signal_fetch reads
            _deploy(deployment, release)
        except PinRecError:
            server.check_alive()  # if Triton has ended, its own last errors explain more
            raise
        events: queue.SimpleQueue[int] = queue.SimpleQueue()
        _on((*STOP, signal.SIGHUP, signal.SIGCHLD), lambda signum, _: events.put(signum))
        metrics.service.serves(release.manifest, options.stages)
        metrics.service.ready(True)
        ready(release)
        while True:
            server.check_alive()
            match _next(events):
                case signal.SIGHUP:
                    _swap(deployment, choose_release, report, options, metrics.service)
                case signal.SIGTERM | signal.SIGINT:
                    break
        _on(STOP, _stop_at_once)
        metrics.service.ready(False)
        report("draining")
        if not deployment.drain(drain_timeout):
            report(f"requests are still in flight after {drain_timeout:.0f} s")
        report("stopping Triton")


def _next(events: queue.SimpleQueue[int]) -> int:
    """Wait for the next signal.

    The wait ends every second, so that Python can run its handlers: a signal that the kernel has delivered to another
    thread does not interrupt the main thread's wait.
    """
    while True:
        try:
            return events.get(timeout=1.0)
        except queue.Empty:
            continue


def _verified(folder: Path) -> Release:
    """Open a release and check all of its files. Each stage checks only the parts that it reads."""
    release = Release.open(folder)
    release.verify()
    return release


def _deploy(deployment: Deployment, release: Release) -> None:
    manifest = release.manifest
    deployment.deploy(release_id=manifest.release_id, folder=release.folder, dataset=manifest.dataset)


def _metrics_of(server: TritonServer, options: ServingOptions) -> MetricsServer:
    disks = {"signals": options.signals, "realtime": options.realtime, "log": server.log_file.parent}
    return MetricsServer(
        host=server.endpoint.host, port=server.endpoint.metrics_port,
        triton=server.triton_metrics, folder=server.metrics_folder, triton_pid=lambda: server.pid,
        disks={name: path for name, path in disks.items() if path is not None},
    )  # fmt: skip


def _swap(
    deployment: Deployment,
    choose_release: Callable[[], Path],
    report: Callable[[str], None],
    options: ServingOptions,
    metrics: ServiceMetrics,
) -> None:
    began = time.monotonic()
    try:
        release = _verified(choose_release())
        _deploy(deployment, release)
        metrics.serves(release.manifest, options.stages)
        metrics.swapped(ok=True, seconds=time.monotonic() - began)
        report(f"serving {deployment.release_id}")
    except PinRecError as error:
        metrics.swapped(ok=False, seconds=time.monotonic() - began)
        report(f"swap failed, {deployment.release_id} serves on: {error}")


def _on(signals: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None]) -> None:
    for signum in signals:
        signal.signal(signum, handler)


def _stop_at_once(signum: int, frame: FrameType | None) -> None:
    """Exit through every context manager, so that Triton is stopped too. The status is 0: a stop is not an error."""
    raise SystemExit(0)
