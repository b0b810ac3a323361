"""``pinrec serve`` as a process of its own, for the benchmarks that ask the real server."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.demo import Folders, pinrec_command
from pinrec_core.errors import ServerError
from pinrec_core.release.current import CURRENT_FILE
from pinrec_serving.installation import free_ports

STOP_TIMEOUT = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server that answers: its addresses for gRPC and HTTP, its process, its log and its real-time store."""

    url: str
    http: str
    process: subprocess.Popen[str]
    log: Path
    realtime: Path

    @property
    def pid(self) -> int:
        """The process id of ``pinrec serve``."""
        return self.process.pid

    def said(self) -> str:
        """What it has said so far."""
        return self.log.read_text("utf-8")

    def wait(self) -> int:
        """Wait until it has stopped. Returns its exit status."""
        return self.process.wait(STOP_TIMEOUT)


@contextmanager
def served(folders: Folders, arguments: Sequence[object] = ()) -> Iterator[Served]:
    """Run ``pinrec serve`` on free ports with a real-time store of its own and further ``arguments``.

    ``folders.release`` may be a folder of releases, of which the current one is served. Raises ``ServerError`` when it
    does not start.
    """
    with tempfile.TemporaryDirectory(prefix="pinrec-benchmarks-") as folder:
        realtime, log = Path(folder) / "realtime", Path(folder) / "serve.log"
        grpc, http, metrics = free_ports(3)
        kind = "--releases" if (folders.release / CURRENT_FILE).is_file() else "--release"
        command = [
            *pinrec_command(), "serve", kind, folders.release, "--signals", folders.signals,
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
            said = json.loads(line)
            yield Served(url=said["grpc"], http=said["http"], process=process, log=log, realtime=realtime)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(STOP_TIMEOUT)
