"""The memory of the server's processes during a run, if the server is on this machine, and whether it grows.

Memory is PSS (proportional set size): a page that several processes share is divided among them, so that the sum over a
tree of processes is what the tree takes of the machine.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil

MIB = 1 << 20
SECONDS_PER_HOUR = 3600.0
FEWEST_SAMPLES = 30
"""Below this number, in the second half of a run, no slope is given: so few samples cannot say how sure it is."""
_NORMAL_975 = 1.96  # two-sided 95%


@dataclass(frozen=True, slots=True)
class MemorySample:
    """``pss_mib`` is that of the whole tree; ``time`` is in seconds from the schedule's start."""

    time: float
    pss_mib: float
    processes: int


def sample(pid: int, time: float) -> MemorySample:
    """The tree of ``pid`` now, without this process and its own children.

    Raises ``psutil.Error`` when ``pid`` has ended or may not be read.
    """
    root = psutil.Process(pid)
    own = psutil.Process(os.getpid())
    left_out = {own.pid, *(child.pid for child in own.children(recursive=True))}
    sizes = []
    for process in [root, *root.children(recursive=True)]:
        if process.pid in left_out:
            continue
        try:
            sizes.append(process.memory_full_info().pss)
        except psutil.NoSuchProcess:  # it ended while the tree was read
            if process.pid == pid:
                raise
    return MemorySample(time, sum(sizes) / MIB, len(sizes))


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryResult:
    """Mebibytes at the beginning, at the end and at most, and the slope in MiB per hour with its 95% interval.

    The slope is that of the second half of the run, because a server that has just started grows until its caches are
    full. It is None when there are fewer than ``FEWEST_SAMPLES`` samples in that half.
    """

    first: float
    last: float
    highest: float
    slope: float | None
    low: float | None
    high: float | None


def memory_result(samples: Sequence[MemorySample]) -> MemoryResult | None:
    """Least squares over the second half of the samples; None without any."""
    if not samples:
        return None
    pss = np.array([sample.pss_mib for sample in samples])
    half = len(samples) // 2
    slope = low = high = None
    if len(samples) - half >= FEWEST_SAMPLES:
        hours = np.array([sample.time for sample in samples[half:]]) / SECONDS_PER_HOUR
        slope, error = _slope(hours, pss[half:])
        low, high = slope - _NORMAL_975 * error, slope + _NORMAL_975 * error
    return MemoryResult(
        first=float(pss[0]), last=float(pss[-1]), highest=float(pss.max()), slope=slope, low=low, high=high
    )


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least-squares slope of ``y`` over ``x``, both float64 [n], and its standard error after Newey and West.

    Memory measured now resembles memory measured a moment ago. The usual standard error takes samples for independent
    and would come out far too small; this one adds the covariances of residuals up to n^(1/3) samples apart.
    """
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    scores = centred * (y - y.mean() - slope * centred)
    lags = int(np.ceil(len(x) ** (1 / 3)))
    variance = scores @ scores
    for lag in range(1, lags + 1):
        variance += 2 * (1 - lag / (lags + 1)) * (scores[lag:] @ scores[:-lag])
    return slope, float(np.sqrt(max(variance, 0.0)) / (centred @ centred))
