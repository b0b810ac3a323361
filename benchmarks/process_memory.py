"""What processes take of the machine's memory, as Linux counts it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

MIB = 1 << 20


def tree(pid: int) -> list[int]:
    """A process and its descendants that are alive."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for file in children for child in file.read_text("utf-8").split()]
    return [pid, *(descendant for child in found for descendant in tree(child))]


def pss_mib(pids: Iterable[int]) -> float:
    """What the processes take together in MiB, each shared page divided among those that share it (PSS)."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8").splitlines()
        total += next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total / MIB
