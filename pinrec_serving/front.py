"""The front of a server: runs HAProxy between the clients and Triton, where HAProxy is installed.

What it does is written in ``guard.cfg`` and ``haproxy.cfg`` beside this module, which passes what varies, and keeps it
running. A front that dies is started again. It knows nothing of models or releases.
"""

from __future__ import annotations

import csv
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from pinrec_core.errors import ConfigError, ServerError, require
from pinrec_core.files.temporary_folder import TemporaryFolder
from pinrec_serving.admission import InFlightLimit
from pinrec_serving.installation import check_ports, private_ports
from pinrec_serving.log_files import open_log
from pinrec_serving.runtime import Endpoint, end_with_parent

CONFIGURATION = [word for name in ("guard.cfg", "haproxy.cfg") for word in ("-f", Path(__file__).with_name(name))]
MEMORY_MIB = 1024  # of address space: the buffers of ``haproxy.cfg``, Lua, connections and the program itself
FOLDER_PREFIX = "pinrec-front-"
START_TIMEOUT = 10.0
STOP_TIMEOUT = 5.0
POLL_INTERVAL = 0.05
ANSWER_TIMEOUT = 2.0
LIMIT_INTERVAL = 0.25  # seconds between two readings; at most so long is a sudden flood let in by the old limit
RECOMMENDATIONS = "recommendations"
BOUNDED = "grpc_recommendations/triton"
REFUSING = {"grpc_recommendations": RECOMMENDATIONS, "grpc_events": "events", "http_inference": "http"}
"""Backends of ``haproxy.cfg`` with a bound, and what they are for."""
PROGRAM_FOLDERS = ("/usr/local/sbin", "/usr/sbin")  # where packages put it, on nobody's PATH but root's


class FrontChoice(StrEnum):
    """Whether a service has a front."""

    AUTO = "auto"  # where HAProxy is installed
    HAPROXY = "haproxy"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files in PEM format: ``certificate`` holds the server's certificate, its chain and its private key.

    With ``client_ca``, every client has to show a certificate of one of these authorities (mutual TLS), except who asks
    over HTTP for health alone.
    """

    certificate: Path
    client_ca: Path | None = None

    def __post_init__(self) -> None:
        for option, path in (("--tls-certificate", self.certificate), ("--tls-client-ca", self.client_ca)):
            if path is not None:
                require(path.is_file(), option, str(path), "a file in PEM format", error=ConfigError)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontOptions:
    """What the front is asked to do.

    ``max_in_flight`` bounds the recommendations that Triton works on at the same time, and in the same way the calls
    that write events. While requests are refused, no more recommendations are in flight than are served within
    ``latency_ms`` (``admission``). A request above the bound waits at most ``queue_ms`` milliseconds for a place and is
    then refused, with the hint to come again after ``pushback_ms``. ``api_keys`` is a file of the SHA-256 of the keys
    that may ask, one per line, each followed by a name. Raises ``ConfigError``.
    """

    max_in_flight: int = 64
    latency_ms: float = 150.0
    queue_ms: int = 15
    pushback_ms: int = 100
    tls: Tls | None = None
    api_keys: Path | None = None

    def __post_init__(self) -> None:
        require(self.max_in_flight >= 1, "--max-in-flight", self.max_in_flight, "at least 1", error=ConfigError)
        require(self.latency_ms > 0, "--latency-ms", self.latency_ms, "milliseconds above 0", error=ConfigError)
        require(self.queue_ms >= 1, "--queue-ms", self.queue_ms, "at least 1 millisecond", error=ConfigError)
        if self.api_keys is not None:
            _check_keys(self.api_keys)

    @property
    def needed(self) -> bool:
        """Whether it does what Triton cannot do by itself, so that there is no service without it."""
        return self.tls is not None or self.api_keys is not None


def find_haproxy(choice: FrontChoice, options: FrontOptions) -> Path | None:
    """The program, or None where there shall be no front.

    Raises ``ServerError`` where it is asked for, or needed, and not installed.
    """
    if choice is FrontChoice.NONE:
        require(not options.needed, "--front", str(choice), "haproxy, for TLS and keys", error=ConfigError)
        return None
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), *PROGRAM_FOLDERS])
    if found := shutil.which("haproxy", path=folders):
        return Path(found)
    if choice is FrontChoice.HAPROXY or options.needed:
        raise ServerError("HAProxy is not installed: apt-get install haproxy, or ask for --front none")
    return None


@dataclass(frozen=True, slots=True)
class Counted:
    """Requests that were answered, and that were refused."""

    served: float
    refused: float


class Front:
    """A running HAProxy, as a context manager. It listens on ``outer`` and passes requests on to ``inner``.

    Raises ``ServerError`` on entering when HAProxy does not start; its messages are in ``front.log`` in ``log_folder``.
    """

    def __init__(
        self,
        program: Path,
        options: FrontOptions,
        *,
        outer: Endpoint,
        inner: Endpoint,
        log_folder: Path,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._program = program
        self._options = options
        self._outer = outer
        self._inner = inner
        self._report = report
        self.log_file = Path(log_folder) / "front.log"
        self._folder: TemporaryFolder | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._limit = InFlightLimit(most=options.max_in_flight, target_seconds=options.latency_ms / 1e3)
        self._closing = threading.Event()
        self._limiter = threading.Thread(target=self._keep_limit, name="front-limit", daemon=True)

    def __enter__(self) -> Self:
        check_ports(self._outer.ports)
        self._folder = TemporaryFolder(FOLDER_PREFIX)
        try:
            checked = subprocess.run(
                [self._program, "-c", *CONFIGURATION], env=self._environment(), capture_output=True, text=True
            )
            if checked.returncode != 0:
                raise ServerError(f"HAProxy refuses its configuration:\n{checked.stderr.strip()}")
            self._start()
            self._limiter.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        if self._limiter.is_alive():
            self._limiter.join()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._folder is not None:
            self._folder.close()

    def refusals(self) -> dict[str, float]:
        """How many requests it has refused since it was started, by what they were for; empty while it starts."""
        return {what: counted.refused for what, counted in self._counted().items()}

    def _counted(self) -> dict[str, Counted]:
        """Of each backend with a bound, since HAProxy was started; empty while it starts."""
        try:
            answer = self._ask("show stat")
        except OSError:
            return {}
        rows = csv.DictReader(answer.lstrip("# ").splitlines())
        # Failed connections are those that got no place in time, and those that found no Triton. Statuses would count
        # what Triton refuses, too: it must not look like too much work that a stage is away.
        return {
            REFUSING[row["pxname"]]: Counted(float(row["hrsp_2xx"] or 0), float(row["econ"] or 0))
            for row in rows
            if row["svname"] == "BACKEND" and row["pxname"] in REFUSING
        }

    def _keep_limit(self) -> None:
        """Set the bound of recommendations in flight, again and again, after what was served and refused."""
        before, at, limit = Counted(0.0, 0.0), time.monotonic(), self._limit.limit
        while not self._closing.wait(LIMIT_INTERVAL):
            now, read = time.monotonic(), self._counted().get(RECOMMENDATIONS)
            if read is None or read.served < before.served:  # it was started again, with the bound of the options
                before, at, limit = Counted(0.0, 0.0), now, self._options.max_in_flight
                continue
            wanted = self._limit.after(
                served=read.served - before.served, refused=read.refused - before.refused, seconds=now - at
            )
            before, at = read, now
            if wanted != limit:
                try:
                    self._ask(f"set maxconn server {BOUNDED} {wanted}")
                    limit = wanted
                except OSError:  # it has just ended
                    continue

    def keep_running(self) -> None:
        """Start it again if it has ended. Raises ``ServerError`` when that fails."""
        if self._process is not None and (status := self._process.poll()) is not None:
            self._report(f"the front ended with status {status}; it is started again")
            self._start()

    def _start(self) -> None:
        with open_log(self.log_file) as log:
            self._process = subprocess.Popen(
                [self._program, "-db", "-m", str(MEMORY_MIB), *CONFIGURATION],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                lines = self.log_file.read_text("utf-8", errors="replace").splitlines()
                raise ServerError(f"HAProxy does not start; {self.log_file} ends:\n" + "\n".join(lines[-4:]))
            time.sleep(POLL_INTERVAL)

    def _listens(self) -> bool:
        try:
            return self._ask("show info") != ""
        except OSError:
            return False

    def _ask(self, command: str) -> str:
        """What HAProxy answers to a command. Raises ``OSError`` while it does not listen."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_TIMEOUT)
            connection.connect(str(self._socket))
            connection.sendall(f"{command}\n".encode())
            with connection.makefile("r", encoding="utf-8") as answer:
                return answer.read()

    @property
    def _socket(self) -> Path:
        assert self._folder is not None
        return self._folder.path / "socket"

    def _environment(self) -> dict[str, str]:
        options = self._options
        outer, inner = self._outer, self._inner
        values = {
            "FRONT_SOCKET": str(self._socket),
            "FRONT_GRPC": f"{outer.host}:{outer.grpc_port}",
            "FRONT_HTTP": f"{outer.host}:{outer.http_port}",
            "FRONT_METRICS": f"{outer.host}:{outer.metrics_port}",
            "FRONT_TRITON_GRPC": f"{inner.host}:{inner.grpc_port}",
            "FRONT_TRITON_HTTP": f"{inner.host}:{inner.http_port}",
            "FRONT_EXPORTER": f"{inner.host}:{inner.metrics_port}",
            "FRONT_MAX_IN_FLIGHT": str(options.max_in_flight),
            "FRONT_QUEUE_MS": str(options.queue_ms),
            "FRONT_PUSHBACK_MS": str(options.pushback_ms),
            "FRONT_GRPC_OPTIONS": _bind_words(options.tls, "required", "h2") or "proto h2",
            "FRONT_HTTP_OPTIONS": _bind_words(options.tls, "optional", "h2,http/1.1"),
            "FRONT_METRICS_OPTIONS": _bind_words(options.tls, "required", "h2,http/1.1"),
        }
        if options.tls is not None and options.tls.client_ca is not None:
            values["EDGE_CLIENT_CA"] = str(options.tls.client_ca.resolve())
        if options.api_keys is not None:
            values["EDGE_API_KEYS"] = str(options.api_keys.resolve())
        ours = ("PINREC_FRONT_", "PINREC_EDGE_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return inherited | {f"PINREC_{name}": value for name, value in values.items()}


def private_endpoint() -> Endpoint:
    """An endpoint of free ports that only this machine reaches, for a server behind a front or a measured one."""
    grpc, http, metrics = private_ports(3)
    return Endpoint(grpc_port=grpc, http_port=http, metrics_port=metrics)


def _bind_words(tls: Tls | None, verify: str, protocols: str) -> str:
    """What HAProxy's ``bind`` needs for TLS, nothing without it. ``verify`` is whether clients show a certificate."""
    if tls is None:
        return ""
    clients = "" if tls.client_ca is None else f" ca-file {tls.client_ca.resolve()} verify {verify}"
    return f"ssl crt {tls.certificate.resolve()}{clients} alpn {protocols}"


def _check_keys(path: Path) -> None:
    """Raises ``ConfigError`` unless every line of the file begins with a SHA-256. No line is quoted in the error."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-keys={str(path)!r}: expected a readable file of text") from error
    keys = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    wrong = [n for n, key in enumerate(keys, 1) if len(key) != 64 or set(key) - set("0123456789abcdef")]
    if wrong or not keys:
        raise ConfigError(
            f"--api-keys={str(path)!r}, key {wrong[0] if wrong else 1}: expected the SHA-256 of a key in 64 lower-case "
            'hexadecimal digits and a name, one per line, as `printf %s "$KEY" | sha256sum` writes them'
        )
