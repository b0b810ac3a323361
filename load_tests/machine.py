"""The machine that a load test ran on: enough to judge its figures by, and nothing that identifies it."""

from __future__ import annotations

import datetime
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

PACKAGES = ("locust", "gevent", "grpcio", "tritonclient")


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCard:
    """``load_average`` is that of the last minute. The server may be on another machine."""

    cpu: str
    cores: int
    memory_gib: float
    versions: dict[str, str]
    date: str
    load_average: float


def machine_card() -> MachineCard:
    """The card of this machine at this moment."""
    return MachineCard(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        versions={"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        date=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        load_average=round(os.getloadavg()[0], 2),
    )


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
