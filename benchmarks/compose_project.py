"""A Compose project of its own with a release that lies on this machine, for the drills and the tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT
from pinrec_core.errors import ServerError
from pinrec_serving.installation import free_ports

VARIABLES = ("PINREC_", "COMPOSE_", "GRAFANA_", "TRITON_")
"""Beginnings of the names of variables that a person may have set for ``docker compose`` and that play no part here."""
PORTS = ("GRPC", "HTTP", "METRICS", "PROMETHEUS", "ALERTMANAGER", "LOCUST")


def has_compose() -> bool:
    """Whether this machine has ``docker compose``."""
    return shutil.which("docker") is not None and _succeeds("docker", "compose", "version")


def has_engine() -> bool:
    """Whether an engine runs here that it can ask."""
    return has_compose() and _succeeds("docker", "info")


def compose(*arguments: object, environment: dict[str, str] | None = None, timeout: float = 300) -> str:
    """What ``docker compose`` prints in the project's folder. Raises ``ServerError`` with what it said of a failure."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)}
    return said("docker", "compose", *arguments, environment=kept | (environment or {}), timeout=timeout)


def said(*command: object, environment: dict[str, str] | None = None, timeout: float = 300) -> str:
    """What a command prints. Raises ``ServerError`` when it fails or takes longer than ``timeout`` seconds."""
    words = [*map(str, command)]
    try:
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise ServerError(f"{' '.join(words)}: no end within {timeout:.0f} s") from error
    if done.returncode:
        raise ServerError(f"{' '.join(words)} ended with status {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def open_to_containers(folder: Path) -> None:
    """Let the user of the containers, 1000, read and change ``folder`` and all that is in it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    for parent in folder.parents:  # temporary folders are closed to everybody else
        if parent.stat().st_uid == os.getuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)


class Project:
    """The services of compose.yaml on free ports. The volume ``data`` is the folder ``data``; ``folder`` is a place for
    files of its own. ``environment`` are variables of compose.yaml.
    """

    def __init__(self, name: str, data: Path, folder: Path, **environment: str) -> None:
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        override = folder / "compose.override.json"
        volume = {"driver_opts": {"type": "none", "o": "bind", "device": str(data)}}
        override.write_text(json.dumps({"volumes": {"data": volume}}), "utf-8")
        self._environment = environment | {f"PINREC_{purpose}_PORT": str(n) for purpose, n in self.ports.items()}
        self._files = ["-p", f"{name}-{os.getpid()}", "-f", ROOT / "compose.yaml", "-f", override, "--profile", "*"]

    def __call__(self, *arguments: object, timeout: float = 300) -> str:
        return compose(*self._files, *arguments, environment=self._environment, timeout=timeout)

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.ports['GRPC']}"

    def up(self, *services: str, alone: bool = False) -> None:
        """Start them and wait until they are healthy; ``alone``, without the services that they depend on."""
        try:
            self("up", "-d", "--wait", "--no-build", *(["--no-deps"] if alone else []), *services)
        except ServerError as error:
            raise ServerError(f"{error}\n{self('logs', '--tail', 40)}") from error

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


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0
