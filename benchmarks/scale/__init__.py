"""``python -m benchmarks scale``: cost against the catalogue, the history, the number of users and the load.

Each module is a part with a function ``run``, like a benchmark: ``catalogue``, ``history``, ``users``, ``load``. Each
has a file of results of its own, so that one can be measured again without the others; ``plots`` draws what is there.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from shutil import disk_usage

from pinrec_core.errors import ConfigError


class Part(StrEnum):
    """What grows. Each is a module of this package, and its results are ``scale_<part>-<machine>.json``."""

    CATALOGUE = "catalogue"
    HISTORY = "history"
    USERS = "users"
    LOAD = "load"


def require_disk(folder: Path, needed: int, what: str) -> None:
    """Raises ``ConfigError`` where fewer than ``needed`` bytes are free: better now than after minutes of writing."""
    free = disk_usage(folder).free
    if free < needed:
        raise ConfigError(
            f"{what}: {free / 1e9:.1f} GB are free in {folder}, expected {needed / 1e9:.1f} GB; "
            "set TMPDIR to a larger disk or give a smaller size"
        )
