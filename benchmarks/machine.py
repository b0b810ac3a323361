"""The card of the machine that a benchmark ran on: enough to judge a figure by, and nothing that identifies it."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "numpy", "faiss-cpu", "rocksdict", "tritonclient", "nvidia-pytriton", "transformers")
ROOT = Path(__file__).parents[1]
_CODE = (".", ":(exclude)benchmarks/results", ":(exclude)docs")


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCard:
    """Hardware, versions, and how busy the machine was before: ``load_average`` is that of the last minute."""

    cpu: str
    cores: int
    memory_gib: float
    gpu: str | None
    torch_threads: int
    versions: dict[str, str]
    commit: str
    date: str
    load_average: float

    @property
    def slug(self) -> str:
        """The machine in file names, such as ``amd-epyc-2-cores``."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.gpu or self.cpu} {self.cores} cores".lower()).strip("-")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def machine_card() -> MachineCard:
    """The card of this machine at this moment."""
    return MachineCard(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        torch_threads=torch.get_num_threads(),
        versions={"python": platform.python_version(), **_versions()},
        commit=_commit(),
        date=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        load_average=load_average(),
    )


def load_average() -> float:
    """Runnable processes, averaged over the last minute. On a quiet machine these are the benchmark's own."""
    return round(os.getloadavg()[0], 2)


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # an optional package: without it nothing was measured with it
            continue
    return versions


def _commit() -> str:
    """The commit of the working tree, or ``unknown`` without git.

    ``+changes`` follows where files differ from the commit, other than those that benchmarks and reports write.
    """
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain", "--", *_CODE) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
