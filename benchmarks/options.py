"""The options of one run of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.demo import Prepared

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """``quick`` leaves the larger cases out and shortens ``seconds``, the time that is spent on each function.

    ``prepared`` gives the release and the signals, and builds them on first use. ``release`` is the one that was given,
    or None; benchmarks that need none look at it. ``threads_compared`` are the numbers of threads per process that the
    ensemble's benchmark compares; the other benchmarks run with the first of them. ``run`` is the run that ``release``
    releases. ``max_items`` and ``max_users`` bound the sizes of ``scale``.
    """

    quick: bool
    presets: tuple[str, ...]
    prepared: Prepared
    release: Path | None
    threads_compared: tuple[int, ...]
    run: Path | None = None
    max_items: int = 1_000_000
    max_users: int = 1_000_000

    @property
    def threads(self) -> int:
        return self.threads_compared[0]

    @property
    def seconds(self) -> float:
        return 0.1 if self.quick else 1.0
