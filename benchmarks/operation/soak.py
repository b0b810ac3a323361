"""A steady load for half an hour: nothing may fail, and memory must not grow.

Memory is what the processes of the server take together (PSS). Its slope is that of a straight line through the
readings of the second half, with a 95% interval by bootstrap over blocks of neighbouring readings, which resemble one
another.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks.operation.drill import Row, Setting
from benchmarks.operation.load import OK, REFUSED, Load, p99
from benchmarks.process_memory import pss_mib, tree

SECONDS = 1800.0
SHARE = 0.7  # of the saturation
BETWEEN = 5.0  # seconds between two readings
BLOCK = 12  # readings
RESAMPLES = 2000


def run(setting: Setting) -> list[Row]:
    seconds = 20.0 if setting.quick else SECONDS
    with setting.server() as server, Load(server.url, setting.requests()) as load:
        saturation = load.closed(32, 2.0 if setting.quick else 10.0)
        begun = len(load.sent)
        start = time.perf_counter()
        readings = []
        with load.beside(SHARE * saturation):
            while (passed := time.perf_counter() - start) < seconds:
                setting.progress(f"{passed:.0f} of {seconds:.0f} s")
                readings.append((passed, pss_mib(tree(server.pid))))
                time.sleep(1.0 if setting.quick else BETWEEN)
        sent = load.sent[begun:]
    at, memory = np.array(readings).T
    second = at >= seconds / 2
    low, slope, high = slope_interval(at[second] / 3600, memory[second])
    return [
        {
            "seconds": seconds, "rate /s": SHARE * saturation, "requests": len(sent),
            "failed": sum(s.status not in (OK, REFUSED) for s in sent),
            "refused": sum(s.status == REFUSED for s in sent), "p99 ms": p99(sent),
            "memory MiB at the beginning": float(memory[0]), "at half time": float(memory[second][0]),
            "at the end": float(memory[-1]), "slope MiB/h": slope, "from": low, "to": high,
            "within noise": int(low <= 0 <= high),
        }
    ]  # fmt: skip


def slope_interval(hours: np.ndarray, memory: np.ndarray, *, seed: int = 0) -> tuple[float, float, float]:
    """The slope in MiB per hour and its 95% interval: low, slope, high."""
    slope, level = np.polyfit(hours, memory, 1)
    rest = memory - (slope * hours + level)
    random = np.random.default_rng(seed)
    block = min(BLOCK, len(rest))
    blocks = -(-len(rest) // block)
    slopes = []
    for _ in range(RESAMPLES):
        starts = random.integers(0, len(rest) - block + 1, blocks)
        drawn = np.concatenate([rest[s : s + block] for s in starts])[: len(rest)]
        slopes.append(np.polyfit(hours, slope * hours + level + drawn, 1)[0])
    low, high = np.percentile(slopes, [2.5, 97.5])
    return float(low), float(slope), float(high)
