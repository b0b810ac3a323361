"""Runs one Triton process: starts it, waits until it is live, keeps its log, reports why it died, and stops it.

The server starts with an empty model repository, in Triton's explicit model-control mode. ``pinrec_serving.deployment``
loads models into it afterwards. This module knows nothing of releases, stages or signals.
"""

from __future__ import annotations

import ctypes
import secrets
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pinrec_core.errors import ConfigError, ServerError, require
from pinrec_core.files.temporary_folder import TemporaryFolder
from pinrec_serving import heartbeat
from pinrec_serving.installation import (
    TritonInstallation,
    TritonSource,
    check_ports,
    check_shared_memory,
    find_installation,
    private_ports,
)
from pinrec_serving.log_files import open_log
from pinrec_serving.logs import LOG_FORMAT_VARIABLE, LogFormat
from pinrec_serving.stage_metrics import METRICS_VARIABLE

STAGE_SHARED_MEMORY = 16 << 20  # bytes that each stage process starts with; Triton adds more when needed
ADMIN_KEY = "pinrec-admin"
RESTRICTED = ("model-repository", "shared-memory", "trace", "logging")
FOLDER_PREFIX = "pinrec-server-"
START_TIMEOUT = 60.0  # seconds that an empty server may take until it is live
EXIT_TIMEOUT = 30  # seconds that Triton itself waits for requests in flight when it stops
POLL_INTERVAL = 0.1
LAST_BYTES = 1 << 20  # of a log, among which its last errors are looked for
SUMMARY_QUANTILES = "0.5:0.01,0.95:0.005,0.99:0.001"  # quantile:error
NO_GPU = ("CudaDriverHelper", "unable to create stream")
"""Words in the errors that Triton logs on every machine without a GPU. They do not explain why a server died."""

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a service listens. At ``metrics_port`` it is the owner of the server that does (``metrics``)."""

    host: str = "127.0.0.1"
    grpc_port: int = 8001
    http_port: int = 8000
    metrics_port: int = 8002

    @property
    def grpc(self) -> str:
        return f"{self.host}:{self.grpc_port}"

    @property
    def http(self) -> str:
        return f"http://{self.host}:{self.http_port}"

    @property
    def metrics(self) -> str:
        return f"http://{self.host}:{self.metrics_port}/metrics"

    @property
    def ports(self) -> list[tuple[str, str, int]]:
        """Purpose, host and number of each."""
        ports = {"grpc": self.grpc_port, "http": self.http_port, "metrics": self.metrics_port}
        return [(purpose, self.host, port) for purpose, port in ports.items()]

    @property
    def local(self) -> Endpoint:
        """The endpoint for clients on this machine, which cannot connect to a wildcard address such as 0.0.0.0."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return replace(self, host=host)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """Where Triton sends the spans of a request, as OTLP over HTTP, and that it does so for one in ``every`` requests.

    A request whose caller sends a ``traceparent`` is always traced, whatever that says about sampling. Raises
    ``ConfigError`` for another kind of URL, and for ``every`` below 1.
    """

    url: str
    every: int

    def __post_init__(self) -> None:
        require(self.url.startswith(("http://", "https://")), "otlp", self.url, "an http:// or https:// URL",
                error=ConfigError)  # fmt: skip
        require(self.every >= 1, "trace_every", self.every, "a number of at least 1", error=ConfigError)

    @property
    def arguments(self) -> list[str]:
        """For Triton's command line."""
        return [
            "--trace-config=mode=opentelemetry",
            "--trace-config=level=TIMESTAMPS",
            "--trace-config=count=-1",  # without end
            f"--trace-config=rate={self.every}",
            f"--trace-config=opentelemetry,url={self.url}",
            "--trace-config=opentelemetry,resource=service.name=pinrec",
        ]


class TritonServer:
    """A running server, as a context manager: entering starts it and waits until it is live, leaving stops it.

    The log is appended to ``triton.log`` in ``log_folder``, in which ``log_format`` is that of the stages'
    records. The linked backend, the model repository and the metrics of the stages live in a temporary folder of the
    server's own, so several servers can run side by side. ``progress`` is called with the seconds waited so far.
    Entering raises ``ServerError`` when something is missing or the server does not become live. Enter it from a thread
    that lives longer than the server: Triton is terminated when the thread that started it ends.
    """

    def __init__(
        self,
        *,
        endpoint: Endpoint,
        log_folder: Path,
        source: TritonSource = TritonSource.AUTO,
        log_format: LogFormat = LogFormat.TEXT,
        tracing: Tracing | None = None,
        progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.endpoint = endpoint
        self.log_file = Path(log_folder) / "triton.log"
        self._source = source
        self._log_format = log_format
        self._tracing = tracing
        self._progress = progress
        self._admin_secret = secrets.token_hex(16)
        self._metrics_port = 0
        self._folder: TemporaryFolder | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def repository(self) -> Path:
        """The model repository of this process; empty until something is deployed."""
        if self._folder is None:
            raise ServerError("the server was not started")
        return self._folder.path / "repository"

    @property
    def heartbeats(self) -> Path:
        """The folder in which the stage processes of this server say what they are doing."""
        return self.repository.with_name("heartbeats")

    @property
    def metrics_folder(self) -> Path:
        """Where the stages of this server write their metrics (``stage_metrics``)."""
        return self.repository.parent / "metrics"

    @property
    def triton_metrics(self) -> str:
        """The URL of Triton's own metrics, on this machine alone."""
        return f"http://127.0.0.1:{self._metrics_port}/metrics"

    @property
    def pid(self) -> int | None:
        """The process id of Triton; None before it was started."""
        return self._process.pid if self._process is not None else None

    @property
    def admin_headers(self) -> dict[str, str]:
        """The gRPC metadata that model control requires. Loading a model runs its code, so only the owner may do it."""
        return {f"triton-grpc-protocol-{ADMIN_KEY}": self._admin_secret}

    def __enter__(self) -> Self:
        check_ports(self.endpoint.ports)
        check_shared_memory()
        self._folder = TemporaryFolder(FOLDER_PREFIX)
        try:
            self._start(self._folder, find_installation(self._folder.path, self._source))
            self._wait_until_live()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def poll(self) -> int | None:
        """The exit status of the process; None while it runs. Raises ``ServerError`` when it was never started."""
        if self._process is None:
            raise ServerError("the server was not started")
        return self._process.poll()

    def check_alive(self) -> None:
        """Raises ``ServerError`` with the end of the log when the process has ended."""
        if (status := self.poll()) is not None:
            raise ServerError(f"Triton ended with status {status}; {self.log_file} ends:\n{self.last_words()}")

    def stop(self, timeout: float = EXIT_TIMEOUT + 5.0) -> None:
        """Send SIGTERM, and SIGKILL after ``timeout`` seconds; then remove the temporary folder. The log is kept."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._folder is not None:
            self._folder.close()

    def last_words(self, lines: int = 8) -> str:
        """The last errors in this run's log, or its last lines when it holds no error."""
        size = self.log_file.stat().st_size
        begin = self._log_start if self._log_start <= size else 0  # a log that was rotated has begun anew
        with self.log_file.open("rb") as log:
            log.seek(max(begin, size - LAST_BYTES))
            text = log.read().decode("utf-8", errors="replace").splitlines()
        errors = [line for line in text if line[:1] in ("E", "F") and not any(n in line for n in NO_GPU)]
        return "\n".join((errors or text)[-lines:])

    def _start(self, folder: TemporaryFolder, installation: TritonInstallation) -> None:
        self.repository.mkdir()
        self.heartbeats.mkdir()
        self.metrics_folder.mkdir()
        (self._metrics_port,) = private_ports(1)
        with open_log(self.log_file) as log:
            self._log_start = log.tell()
            # Triton gets a session of its own: Ctrl-C in a terminal must reach only the owner, which drains the server
            # before it stops Triton.
            self._process = subprocess.Popen(
                self._command(installation),
                env=installation.environment
                | {
                    heartbeat.FOLDER_VARIABLE: str(self.heartbeats),
                    METRICS_VARIABLE: str(self.metrics_folder),
                    LOG_FORMAT_VARIABLE: self._log_format,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
                pass_fds=(folder.lock,),  # keeps the folder while Triton runs, even when the owner is killed
            )

    def _command(self, installation: TritonInstallation) -> list[str]:
        endpoint = self.endpoint
        restricted = f"{','.join(RESTRICTED)}:{ADMIN_KEY}={self._admin_secret}"
        return [
            str(installation.binary),
            "--model-control-mode=explicit",
            f"--model-repository={self.repository}",
            f"--backend-directory={installation.backends}",
            f"--backend-config=python,shm-default-byte-size={STAGE_SHARED_MEMORY}",
            "--disable-auto-complete-config",  # the configurations are complete, and completing starts each stub twice
            f"--grpc-address={endpoint.host}",
            f"--grpc-port={endpoint.grpc_port}",
            f"--grpc-restricted-protocol={restricted}",
            f"--http-address={endpoint.host}",
            f"--http-port={endpoint.http_port}",
            f"--http-restricted-api={restricted}",
            "--metrics-address=127.0.0.1",
            f"--metrics-port={self._metrics_port}",
            "--metrics-config=summary_latencies=true",  # quantiles, which no sum of durations tells
            f"--metrics-config=summary_quantiles={SUMMARY_QUANTILES}",
            f"--exit-timeout-secs={EXIT_TIMEOUT}",
            *(self._tracing.arguments if self._tracing else []),
        ]

    def _wait_until_live(self) -> None:
        started = time.monotonic()
        while True:
            waited = time.monotonic() - started
            self.check_alive()
            if _answers(f"{self.endpoint.local.http}/v2/health/live"):
                return
            if waited > START_TIMEOUT:
                raise ServerError(f"Triton is not live after {START_TIMEOUT:.0f} s:\n{self.last_words()}")
            self._progress(waited)
            time.sleep(POLL_INTERVAL)


def end_with_parent() -> None:
    """Runs in the child: the kernel sends it SIGTERM when its parent dies, so that a killed owner leaves no server."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1.0) as response:
            return response.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
