"""``pinrec serve`` as a process of its own, for the benchmarks that ask the real server."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.demo import Folders, pinrec_command
from pinrec_core.errors import ServerError

STOP_TIMEOUT = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server that answers: its gRPC address, the process id of ``pinrec serve``, and its real-time store."""

    url: str
    pid: int
    realtime: Path


@contextmanager
def served(folders: Folders, arguments: Sequence[object] = ()) -> Iterator[Served]:
    """Run ``pinrec serve`` on free ports with a real-time store of its own and further ``arguments``.

    Raises ``ServerError`` when it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="pinrec-benchmarks-") as folder:
        realtime, log = Path(folder) / "realtime", Path(folder) / "serve.log"
        grpc, http, metrics = _free_ports(3)
        command = [
            *pinrec_command(), "serve", "--release", folders.release, "--signals", folders.signals,
            "--realtime", realtime, "--grpc-port", grpc, "--http-port", http, "--metrics-port", metrics,
            "--log-dir", folder, "--json", *arguments,
        ]  # fmt: skip
        with log.open("w") as errors:
            process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                status = process.wait(STOP_TIMEOUT)
                raise ServerError(f"pinrec serve ended with status {status}: {log.read_text('utf-8')}")
            yield Served(url=json.loads(line)["grpc"], pid=process.pid, realtime=realtime)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_TIMEOUT)


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
