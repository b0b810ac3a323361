"""One endpoint for all metrics of a service: the owner's own, those of its stages, and Triton's.

Triton counts by model, and the name of a stage's model holds the release (``generator__r42``). Here the release is a
label of its own, so that a query about a stage survives a swap.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler
from os import getpid
from pathlib import Path
from socket import AF_INET6, socket
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Self

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.core import Metric as Family

from pinrec_core.errors import ServerError
from pinrec_serving.model_names import SEPARATOR
from pinrec_serving.service_metrics import TRITON_UP, Disks, Processes, ServiceMetrics
from pinrec_serving.stage_files import MeasuredProcess, StageFiles

log = logging.getLogger(__name__)

PATH = "/metrics"
TRITON_SECONDS = 2.0
"""Within which Triton has to answer; without it the other metrics are shown alone."""
CLIENT_SECONDS = 5.0
"""How long one who connects may take to ask."""
AT_ONCE = 4
"""Requests that are answered or waited for at the same time. Further connections are closed."""
CLEAN_SECONDS = 60.0
QUALIFIED = re.compile(rf'\bmodel="(\w+?){SEPARATOR}([^"]+)"')


class MetricsServer:
    """Answers ``http://HOST:PORT/metrics`` while it is entered.

    ``triton`` is the URL of Triton's own metrics, and ``folder`` where the stages write theirs. ``triton_pid`` gives
    Triton's process id, if it runs. ``disks`` are folders to watch, by the name that each is shown under. ``service``
    takes what the owner measures. Entering raises ``ServerError`` when nobody can listen there.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        triton: str,
        folder: Path,
        triton_pid: Callable[[], int | None] = lambda: None,
        disks: Mapping[str, Path] | None = None,
    ) -> None:
        self.service = ServiceMetrics()
        self.port = port
        self._address = (host, port)
        self._triton = _Triton(triton)
        self._files = StageFiles(folder)
        self._triton_pid = triton_pid
        for collector in (self._files, Processes(self._processes), Disks(disks or {}), self._triton):
            self.service.registry.register(collector)  # type: ignore[arg-type]  # they have its one method
        self._lock = threading.Lock()
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        host, port = self._address
        try:
            self._server = _Server((host.strip("[]"), port), self.text, self._clean)
        except OSError as error:
            raise ServerError(f"metrics at {host}:{port}: expected a free port ({error.strerror})") from error
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def text(self) -> bytes:
        """All metrics of this moment, in the text format of Prometheus."""
        with self._lock:
            self._triton.fetch()
            return generate_latest(self.service.registry) + self._triton.text.encode()

    def _clean(self) -> None:
        with self._lock:
            self._files.clean()

    def _processes(self) -> Iterable[MeasuredProcess]:
        yield MeasuredProcess(getpid(), "owner", "")
        if (pid := self._triton_pid()) is not None:
            yield MeasuredProcess(pid, "triton", "")
        yield from self._files.processes()


class _Triton:
    """Triton's own metrics as text, and whether they could be read."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
        self.text = ""

    def fetch(self) -> None:
        try:
            with self._direct.open(self._url, timeout=TRITON_SECONDS) as answer:
                self.text = with_release_label(answer.read().decode("utf-8", errors="replace"))
        except (OSError, ValueError):  # it is starting, stopping or stuck
            self.text = ""

    def collect(self) -> Iterable[Family]:
        return [GaugeMetricFamily(TRITON_UP.name, TRITON_UP.help, value=float(self.text != ""))]


def with_release_label(text: str) -> str:
    """``model="generator__r42"`` becomes ``model="generator",release="r42"``. Other models stay as they are."""
    return QUALIFIED.sub(r'model="\1",release="\2"', text)


class _Server(ThreadingMixIn, TCPServer):
    """At most ``AT_ONCE`` threads, one for each request."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], text: Callable[[], bytes], clean: Callable[[], None]) -> None:
        if ":" in address[0]:
            self.address_family = AF_INET6
        self.text = text
        self._clean = clean
        self._clean_at = 0.0
        self._free = threading.BoundedSemaphore(AT_ONCE)
        super().__init__(address, _Handler)

    def service_actions(self) -> None:
        """Called about twice a second. Files must not pile up where nobody asks for metrics."""
        if time.monotonic() < self._clean_at:
            return
        self._clean_at = time.monotonic() + CLEAN_SECONDS
        try:
            self._clean()
        except Exception:  # it would end the thread that answers
            log.exception("the files of ended processes cannot be put away")

    def process_request(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error of the service."""


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_SECONDS
    server: _Server

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(404)
            return
        try:
            text = self.server.text()
        except Exception:
            log.exception("the metrics cannot be read")
            self.send_error(500)
            return
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nobody reads a line for each scrape."""
