"""The whole path through the command line, as a user walks it: prepare, train, release, serve. Once per test run.

Every step is the installed ``pinrec`` in a process of its own; the server is the real Triton.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pinrec_client import PinRecClient

from pinrec_serving.installation import free_ports
from tests.conftest import ROOT

PINREC = Path(sys.executable).with_name("pinrec")
START_SECONDS = 240
"""Four Python stages import torch one after another; a busy two-core machine needs minutes, not seconds."""


def pinrec(*arguments: object, expect: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command; a failure shows what it printed."""
    done = subprocess.run([PINREC, *map(str, arguments)], capture_output=True, text=True, timeout=600, cwd=cwd)
    assert done.returncode == expect, f"pinrec {arguments}\n{done.stdout}\n{done.stderr}"
    return done


@dataclass(frozen=True)
class Prepared:
    """A dataset with at least one release of it."""

    dataset: Path
    releases: Path
    run: Path

    @property
    def signals(self) -> Path:
        return self.dataset / "signals"


@dataclass
class Server:
    """A running ``pinrec serve``."""

    process: subprocess.Popen[str]
    ready: dict[str, str]  # what --json printed
    log: Path

    @property
    def url(self) -> str:
        return self.ready["grpc"]

    def client(self) -> PinRecClient:
        return PinRecClient(self.url, timeout=30)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=90)


@contextlib.contextmanager
def serving(prepared: Prepared, folder: Path, *options: object) -> Iterator[Server]:
    """``pinrec serve`` on free ports with a real-time store of its own, stopped at the end.

    Where ``signal_fetch`` is elsewhere there are no signals.
    """
    ports = free_ports(3)
    log = folder / "serve.log"
    elsewhere = any(str(option).startswith("--remote=signal_fetch=") for option in options) or (
        "--only" in options and "signal_fetch" not in options
    )
    command = [
        PINREC, "serve", "--releases", prepared.releases, "--json", "--threads", 1,
        *([] if elsewhere else ["--signals", prepared.signals]),
        "--grpc-port", ports[0], "--http-port", ports[1], "--metrics-port", ports[2], "--log-dir", folder, *options,
    ]  # fmt: skip
    bare = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | {"PATH": os.defpath}
    with log.open("w") as errors:  # no environment is activated: nobody has to, and CI does not
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=errors, text=True, env=bare)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()  # blocks until ready; pytest's own timeout bounds it
        assert line, f"pinrec serve ended:\n{log.read_text()}"
        yield Server(process, json.loads(line), log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=90)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def make_release(folder: Path, prepare: list[object], epochs: int) -> Prepared:
    """prepare → train → release with the smallest preset."""
    prepared = Prepared(dataset=folder / "dataset", releases=folder / "releases", run=folder / "run")
    pinrec("prepare", *prepare, "--out", prepared.dataset, "--json")
    pinrec("train", prepared.dataset, "--out", prepared.run, "--preset", "tiny", "--epochs", epochs)
    pinrec("release", prepared.run, "--releases", prepared.releases, "--json")
    return prepared


def readme_commands() -> list[list[str]]:
    """The ``pinrec`` commands of the README's "Step by step", in order."""
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.split("## Step by step")[1].split("\n## ")[0]
    return [shlex.split(line, comments=True)[1:] for line in section.splitlines() if line.startswith("pinrec ")]


@pytest.fixture(scope="session")
def ml100k(data_root, tmp_path_factory) -> Prepared:
    """MovieLens-100K, three outcomes, integer ids, made by the README's own commands (with fewer epochs)."""
    folder = tmp_path_factory.mktemp("ml100k")
    for name, *arguments in readme_commands():
        if name in ("prepare", "train", "evaluate", "release"):
            arguments = [str(data_root) if a == "../shared/data" else a for a in arguments]
            pinrec(name, *arguments, *(["--epochs", 4] if name == "train" else []), cwd=folder)
    return Prepared(dataset=folder / "data/ml100k", releases=folder / "releases", run=folder / "runs/ml100k")


class Collector(HTTPServer):
    """Takes traces as an OpenTelemetry collector does. ``spans`` are all that arrived, in OTLP's JSON."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), _Traces)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/traces"


class _Traces(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for resource in document["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                self.server.spans += scope["spans"]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    with Collector() as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        yield collector
        collector.shutdown()


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="session")
def ml100k_server(ml100k, collector, tmp_path_factory) -> Iterator[Server]:
    """Only requests with a ``traceparent`` are traced."""
    with serving(
        ml100k, tmp_path_factory.mktemp("serve"), "--realtime", tmp_path_factory.mktemp("rt") / "store",
        "--otlp", collector.url, "--trace-every", 10**9,
    ) as server:  # fmt: skip
        yield server


@pytest.fixture
def client(ml100k_server) -> Iterator[PinRecClient]:
    with ml100k_server.client() as client:
        yield client


@pytest.fixture
def unused(tmp_path) -> Callable[[str], Path]:
    """A path that nothing else uses."""
    return lambda name: tmp_path / name


os.environ.setdefault("PYTHONUNBUFFERED", "1")
