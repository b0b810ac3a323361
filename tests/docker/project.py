"""A Compose project of its own for tests, with a release that lies on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pinrec_serving.installation import free_ports

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = ("PINREC_", "COMPOSE_", "GRAFANA_", "TRITON_")
"""Beginnings of the names of variables that a person may have set for ``docker compose`` and that play no part here."""


def need_compose() -> None:
    answer = shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True)
    if not answer or answer.returncode:
        pytest.skip("no `docker compose` on this machine")


def need_engine() -> None:
    need_compose()
    if subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine runs on this machine")


def compose(*arguments: object, environment: dict[str, str] | None = None, timeout: float = 300) -> str:
    """What ``docker compose`` prints. A command that fails shows what it said."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)}
    return said("docker", "compose", *arguments, env=kept | (environment or {}), timeout=timeout)


def said(*command: object, env: dict[str, str] | None = None, timeout: float = 300) -> str:
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Project:
    """The services of compose.yaml on free ports. The volume ``data`` is the folder of the release."""

    def __init__(self, name: str, data: Path, folder: Path, **environment: str) -> None:
        need_engine()
        ports = ("GRPC", "HTTP", "METRICS", "PROMETHEUS", "ALERTMANAGER", "LOCUST")
        self.ports = dict(zip(ports, free_ports(len(ports)), strict=True))
        override = folder / "compose.test.yaml"
        volume = {"driver_opts": {"type": "none", "o": "bind", "device": str(data)}}
        override.write_text(json.dumps({"volumes": {"data": volume}}), "utf-8")
        self._environment = environment | {f"PINREC_{purpose}_PORT": str(n) for purpose, n in self.ports.items()}
        self._files = ["-p", f"{name}-{os.getpid()}", "-f", ROOT / "compose.yaml", "-f", override, "--profile", "*"]

    def __call__(self, *arguments: object, timeout: float = 300) -> str:
        return compose(*self._files, *arguments, environment=self._environment, timeout=timeout)

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.ports['GRPC']}"

    def up(self, *services: str) -> None:
        """Start them and wait until they are healthy."""
        try:
            self("up", "-d", "--wait", "--no-build", *services)
        except AssertionError:
            print(self("logs", "--tail", 40))
            raise

    def down(self) -> None:
        self("down", "-v", "--timeout", 40)

    def containers(self, service: str) -> list[str]:
        """The names of a service's containers, in the order of their numbers."""
        rows = self("ps", "-a", "--format", "{{.Name}}", service).split()
        return sorted(rows)

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine knows of the first container of a service."""
        return json.loads(said("docker", "inspect", self.containers(service)[0]))[0]

    def execute(self, service: str, program: str, *arguments: object) -> str:
        """Run a Python program in the first container of a service, as its user. Returns what it prints."""
        return self("exec", "-T", service, "python3", "-c", program, *arguments)

    def get(self, purpose: str, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[purpose]}{path}", timeout=10) as answer:
            text = answer.read().decode()
        return json.loads(text) if answer.headers.get_content_type() == "application/json" else text


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Two busy cores need a minute to load a server again; whoever waits longer waits in vain."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.2)
