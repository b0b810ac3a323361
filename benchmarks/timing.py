"""Timing: functions that are compared take turns, so that a machine that slows down slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

TURNS = 10
MAX_CALLS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Median and 99th percentile of ``calls`` calls, in milliseconds. Of fewer than 100 calls, p99 is the slowest."""

    calls: int
    median_ms: float
    p99_ms: float

    @staticmethod
    def of(milliseconds: Sequence[float]) -> Timing:
        values = np.asarray(milliseconds)
        p99 = np.quantile(values, 0.99, method="higher")
        return Timing(calls=len(values), median_ms=float(np.median(values)), p99_ms=float(p99))


def time_together(functions: Mapping[str, Callable[[], object]], *, seconds: float) -> dict[str, Timing]:
    """Time each function for about ``seconds`` in ``TURNS`` alternating turns, after two calls to warm up.

    A turn has at least one call, so slow functions take longer than ``seconds``.
    """
    for function in functions.values():
        function()
        function()
    milliseconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(TURNS):
        for name, function in functions.items():
            milliseconds[name] += _turn(function, seconds / TURNS)
    return {name: Timing.of(values) for name, values in milliseconds.items()}


def _turn(function: Callable[[], object], seconds: float) -> list[float]:
    milliseconds: list[float] = []
    end = time.perf_counter() + seconds
    while True:
        before = time.perf_counter()
        function()
        after = time.perf_counter()
        milliseconds.append((after - before) * 1e3)
        if after >= end or len(milliseconds) >= MAX_CALLS // TURNS:
            return milliseconds


def fastest_seconds(function: Callable[[], object], *, seconds: float) -> float:
    """The time of the fastest call within ``seconds``. It is used for floors, because a disturbance only adds time."""
    function()
    return min(_turn(function, seconds)) / 1e3
