"""What one run of the benchmarks is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.demo import Prepared

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """``seconds`` is spent on each thing timed; ``quick`` shortens it and leaves the larger cases out.

    ``prepared`` gives release and signals, and builds them on first use; ``release`` says whether one was given, for
    benchmarks that can do without. ``threads_compared`` are the numbers of threads per process that the ensemble
    compares; all else runs with the first of them.
    """

    quick: bool
    presets: tuple[str, ...]
    prepared: Prepared
    release: Path | None
    threads_compared: tuple[int, ...]

    @property
    def threads(self) -> int:
        return self.threads_compared[0]

    @property
    def seconds(self) -> float:
        return 0.1 if self.quick else 1.0
