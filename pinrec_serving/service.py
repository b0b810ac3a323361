"""Runs a serving process from start to stop: starts Triton, deploys a release, reacts to events, drains and stops.

On SIGHUP the service looks up the current release again and swaps to it. On SIGTERM or SIGINT it drains and stops; a
second one skips the draining. When the process of a stage ends, the service says that it is not ready and loads the
stage again. Swaps and restarts run in a thread of their own (``changes``): signals are answered and the front is looked
after meanwhile. This module does not know how a release is chosen: the caller passes a function.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import PinRecError, ServerError
from pinrec_core.release.manifest import ReleaseManifest, open_manifest, verify_files
from pinrec_core.release.portability import check_serves_here
from pinrec_serving.changes import Changes
from pinrec_serving.deployment import Deployment
from pinrec_serving.front import Front
from pinrec_serving.log_rotation import rotate
from pinrec_serving.metrics import MetricsServer
from pinrec_serving.model_names import stage_and_release
from pinrec_serving.options import ServingOptions
from pinrec_serving.processes import standing_back
from pinrec_serving.runtime import TritonServer
from pinrec_serving.service_metrics import ServiceMetrics
from pinrec_serving.supervision import RestartPolicy, StageEnded, StageWatch

STOP = (signal.SIGTERM, signal.SIGINT)
EMPTY_EXIT_TIMEOUT = 10.0
"""Seconds that a server without requests may take to stop. Triton waits for ever for a model whose process was killed
while it worked, even if it was loaded anew since."""
TICK = 1.0  # seconds between two looks at the server while nothing happens
STEP = 0.2  # seconds between two looks at what else is due while a release is verified

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RestartDue:
    """It is time to load this stage again."""

    stage: str


@dataclass(frozen=True, slots=True)
class RestartFailed:
    """The stage could not be loaded again."""

    stage: str


Event = int | StageEnded | RestartDue | RestartFailed
"""The number of a signal, or what is the matter with a stage."""


def run_service(
    *,
    server: TritonServer,
    front: Front | None,
    templates: Path,
    options: ServingOptions,
    choose_release: Callable[[], Path],
    drain_timeout: float,
    stall_timeout: float,
    ready: Callable[[ReleaseManifest], None],
    finished: Callable[[], bool],
    report: Callable[[str], None],
) -> None:
    """Serve until a signal stops the service, or it has ``finished``. Call it from the main thread: it handles signals.

    ``front`` stands between the clients and ``server``; with None they reach it directly. ``choose_release`` returns
    the folder of the release to serve, at the start and at each swap. ``ready`` is called once, when requests can be
    answered, and from then on ``finished`` after everything that happens, such as the end of a child process. A stage
    that works on one batch for ``stall_timeout`` seconds is ended. ``report`` is called with a sentence about each
    step, from any thread. Raises ``PinRecError`` when the service cannot start, Triton ends by itself, or a stage does
    not stay alive; a failed swap is only reported.
    """
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    _on(STOP, _stop_at_once)
    _on((signal.SIGHUP,), lambda signum, _: events.put(signum))  # during the start it waits for the end of the start
    folder = choose_release()
    manifest = _verified(folder, report)
    signals_manifest = DatasetManifest.load(options.signals) if options.signals is not None else None
    report("starting Triton")
    with Changes() as changes, server, _metrics_of(server, options) as metrics, front or nullcontext():
        deployment = Deployment(server, templates, options, report)
        metrics.service.ready_while(lambda: deployment.ready)
        service = _Service(server, front, deployment, changes, events, choose_release, report, metrics.service)
        with StageWatch(server.heartbeats, service.stage_ended, stall_timeout=stall_timeout) as watch:
            try:
                if options.realtime is not None and signals_manifest is not None:
                    deployment.deploy_ingest(signals_manifest)  # creates the store that signal_fetch reads
                deployment.deploy(release_id=manifest.release_id, folder=folder, dataset=manifest.dataset)
            except PinRecError:
                server.check_alive()  # if Triton has ended, its own last errors explain more
                raise
            _on((*STOP, signal.SIGCHLD), lambda signum, _: events.put(signum))
            metrics.service.serves(manifest, deployment.stages)
            ready(manifest)
            service.run_until_stopped(watch, finished)
            _on(STOP, _stop_at_once)
            report("draining")
            changes.stop()
            drained = deployment.drain(drain_timeout)
            if not drained:
                report(f"requests are still in flight after {drain_timeout:.0f} s")
        report("stopping Triton")
        if drained:
            server.stop(EMPTY_EXIT_TIMEOUT)


class _Service:
    """What a started service does about events, one after the other, in the main thread."""

    def __init__(
        self,
        server: TritonServer,
        front: Front | None,
        deployment: Deployment,
        changes: Changes,
        events: queue.SimpleQueue[Event],
        choose_release: Callable[[], Path],
        report: Callable[[str], None],
        metrics: ServiceMetrics,
    ) -> None:
        self._server = server
        self._front = front
        self._deployment = deployment
        self._changes = changes
        self._events = events
        self._choose_release = choose_release
        self._report = report
        self._metrics = metrics
        self._unrotated: set[Path] = set()
        self._restarts: defaultdict[str, RestartPolicy] = defaultdict(RestartPolicy)  # by stage, whatever the release

    def stage_ended(self, ended: StageEnded) -> None:
        """Called by the watch: refuse requests at once, whatever else is done."""
        if self._deployment.process_ended(ended.model, ended.pid):
            self._events.put(ended)
            self._report(f"{ended.model}: process {ended.pid} {ended.reason}; not ready")

    def run_until_stopped(self, watch: StageWatch, finished: Callable[[], bool] = lambda: False) -> None:
        """Raises ``ServerError`` where there is nothing left to serve with."""
        while not finished():
            self._look_after(watch)
            match self._next_event():
                case StageEnded(model=stage) | RestartFailed(stage=stage):
                    self._schedule_restart(stage)
                case RestartDue(stage=stage):
                    self._changes.restart(partial(self._restart, stage))
                case signal.SIGHUP:
                    self._changes.swap(self._swap)
                case signal.SIGTERM | signal.SIGINT:
                    return

    def _look_after(self, watch: StageWatch) -> None:
        """Raises ``ServerError`` when Triton has ended, the front has and cannot be started, or nobody watches."""
        self._server.check_alive()
        if not (watch.alive and self._changes.alive):
            raise ServerError("a thread that looks after the stages has ended, which the log explains")
        logs = [self._server.log_file]
        if self._front is not None:
            self._front.keep_running()
            logs.append(self._front.log_file)
            for what, total in self._front.refusals().items():
                self._metrics.refused(what, total)
        for file in logs:
            try:
                rotate(file)
            except OSError as error:
                if file not in self._unrotated:  # said once: it is tried again every second
                    self._unrotated.add(file)
                    self._report(f"{file} cannot be rotated: {error}")

    def _next_event(self) -> Event | None:
        """The next event, or None after a while without one.

        The wait ends now and then so that Python can run its handlers: a signal that the kernel has delivered to
        another thread does not interrupt the main thread's wait.
        """
        try:
            return self._events.get(timeout=TICK)
        except queue.Empty:
            return None

    def _schedule_restart(self, stage: str) -> None:
        """Raises ``ServerError`` where restarts have not helped."""
        self._server.check_alive()
        restarts = self._restarts[stage_and_release(stage)[0]]
        pause = restarts.next_pause()
        if pause is None:
            raise ServerError(f"{stage} does not stay alive: {restarts} did not help")
        if pause == 0.0:
            self._changes.restart(partial(self._restart, stage))
            return
        self._report(f"loading {stage} again in {pause:.0f} s")
        timer = threading.Timer(pause, self._events.put, (RestartDue(stage),))
        timer.daemon = True
        timer.start()

    def _restart(self, stage: str) -> None:
        """Runs in the thread of the changes."""
        began = time.monotonic()
        try:
            if not self._deployment.restart(stage):
                return
        except Exception as error:
            self._failed(f"loading {stage} again failed", error)
            self._events.put(RestartFailed(stage))
            return
        self._metrics.restarted(*stage_and_release(stage))
        state = "ready" if self._deployment.ready else "not ready yet, for another stage is away"
        self._report(f"{stage} was loaded again in {time.monotonic() - began:.1f} s; {state}")

    def _swap(self) -> None:
        """Runs in the thread of the changes."""
        began = time.monotonic()
        try:
            folder = self._choose_release()
            if (current := open_manifest(folder).release_id) == self._deployment.release_id:
                self._report(f"serving {current} already")
                return
            manifest = _verified(folder, self._report, self._changes.between_steps)
            self._deployment.deploy(
                release_id=manifest.release_id, folder=folder, dataset=manifest.dataset,
                between=self._changes.between_steps,
            )  # fmt: skip
        except Exception as error:
            self._metrics.swapped(ok=False, seconds=time.monotonic() - began)
            self._failed(f"swap failed, {self._deployment.release_id} serves on", error)
            return
        self._metrics.serves(manifest, self._deployment.stages)
        self._metrics.swapped(ok=True, seconds=time.monotonic() - began)
        self._report(f"serving {self._deployment.release_id}")

    def _failed(self, what: str, error: Exception) -> None:
        """Say what failed. What nobody foresaw must not end a service either; its traceback is logged."""
        if self._changes.stopped:  # Triton stops while it loads
            return
        if not isinstance(error, PinRecError | OSError):
            log.error("%s", what, exc_info=error)
        self._report(f"{what}: {error}")


def _verified(
    folder: Path, report: Callable[[str], None], meanwhile: Callable[[], None] = lambda: None
) -> ReleaseManifest:
    """Check that a release serves on this machine, and all of its files, of which each stage checks what it reads.

    It stands back behind what else the machine does, and calls ``meanwhile`` again and again. Raises ``ReleaseError``.
    """
    for finding in check_serves_here(folder):
        report(str(finding))
    manifest = standing_back(partial(verify_files, folder))
    while wait([manifest], STEP).not_done:
        meanwhile()
    return manifest.result()


def _metrics_of(server: TritonServer, options: ServingOptions) -> MetricsServer:
    realtime = options.realtime if isinstance(options.realtime, Path) else None  # else it is on other machines
    disks = {"signals": options.signals, "realtime": realtime, "log": server.log_file.parent}
    return MetricsServer(
        host=server.endpoint.host, port=server.endpoint.metrics_port,
        triton=server.triton_metrics, folder=server.metrics_folder, triton_pid=lambda: server.pid,
        disks={name: path for name, path in disks.items() if path is not None},
    )  # fmt: skip


def _on(signals: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None]) -> None:
    for signum in signals:
        signal.signal(signum, handler)


def _stop_at_once(signum: int, frame: FrameType | None) -> None:
    """Exit through every context manager, so that Triton is stopped too. The status is 0: a stop is not an error."""
    raise SystemExit(0)
