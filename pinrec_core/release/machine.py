"""This machine as a release sees it: its processor, its torch and its memory, read without loading torch."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from dataclasses import dataclass
from pathlib import Path

CPU_INFO, MEMORY_INFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
_OF_COMPILED_CODE = re.compile(r"(s?sse|avx|amx|fma|bmi|asimd|sve)\w*|sme(2\w*)?|f16c|fphp|bf16|i8mm")
"""Instruction sets of x86 and Arm that the code of a compiled generator may use, as the kernel names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a release needs to know of the machine that serves it."""

    processor: str  # the architecture and its instruction sets
    torch: str | None  # version; None where torch is not installed
    memory: int | None  # bytes that processes may have here; None where that is not known
    available: int | None  # bytes that are not taken yet

    @staticmethod
    def here() -> Machine:
        """This machine; in a container what the container may use."""
        total, available = memory()
        return Machine(processor=processor(), torch=torch_version(), memory=total, available=available)


def processor() -> str:
    """What compiled code relies on: the architecture, and the instruction sets of vectors and matrices."""
    try:
        lines = CPU_INFO.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    listed = named.partition(":")[2].split()
    return " ".join([platform.machine(), *sorted(name for name in listed if _OF_COMPILED_CODE.fullmatch(name))])


def torch_version() -> str | None:
    """The version of the torch that is installed, as ``torch.__version__`` has it; None without one."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def memory() -> tuple[int | None, int | None]:
    """Bytes of memory that processes may have, and bytes that are not taken yet. None where that is not known."""
    known = {}
    try:
        for line in MEMORY_INFO.read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            known[name] = 1024 * int(value.split()[0])
    except (OSError, ValueError, IndexError):
        return None, None
    total, available = known.get("MemTotal"), known.get("MemAvailable")
    try:
        limit = int((CGROUP / "memory.max").read_text())  # the text "max" where there is no limit
        taken = int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return total, available
    return min(total or limit, limit), min(available or limit, max(0, limit - taken))
