"""Floors: the least time that this machine needs for some work, measured in the same run as the work itself.

Arithmetic is assumed to run at the throughput of a large matrix product, and bytes to move at the bandwidth of a plain
pass over an array of the same size. An array that fits into a cache is read from there, as the real data would be.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.timing import fastest_seconds

MATMUL_SIZE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What the machine can do at best, as measured: ``per_second`` of ``unit`` (FLOP, or B for bytes)."""

    name: str
    unit: str
    per_second: float

    def milliseconds(self, amount: float) -> float:
        """The least time that ``amount`` of the unit can take."""
        return amount / self.per_second * 1e3

    def __str__(self) -> str:
        return f"{self.name}: {self.per_second / 1e9:,.1f} G{self.unit}/s"


def matmul_floor(dtype: torch.dtype, *, seconds: float = 0.5) -> Floor:
    """Throughput of a square product with torch's current number of threads."""
    n = MATMUL_SIZE
    a, b, out = (torch.rand(n, n).to(dtype) for _ in range(3))
    fastest = fastest_seconds(lambda: torch.mm(a, b, out=out), seconds=seconds)
    return Floor(name=f"matmul {n}³, {str(dtype).removeprefix('torch.')}", unit="FLOP", per_second=2 * n**3 / fastest)


def read_floor(num_bytes: int, *, seconds: float = 0.3) -> Floor:
    """Bandwidth of summing an array of ``num_bytes``."""
    array = torch.rand(max(1, num_bytes // 4))
    fastest = fastest_seconds(array.sum, seconds=seconds)
    return Floor(name=f"reading {_size(num_bytes)}", unit="B", per_second=4 * len(array) / fastest)


def copy_floor(num_bytes: int, *, seconds: float = 0.3) -> Floor:
    """Bandwidth of copying an array of ``num_bytes``, in bytes copied."""
    source = torch.zeros(max(1, num_bytes), dtype=torch.uint8)
    target = torch.empty_like(source)
    fastest = fastest_seconds(lambda: target.copy_(source), seconds=seconds)
    return Floor(name=f"copying {_size(num_bytes)}", unit="B", per_second=len(source) / fastest)


def _size(num_bytes: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}"
        num_bytes = num_bytes // 1024
    return f"{num_bytes} GiB"
