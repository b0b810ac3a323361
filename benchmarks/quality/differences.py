"""Compares two files of figures of one study value by value, to see whether a change of the code changed a figure.

Times and rates, and whatever names the day or the machine, differ from run to run and are left out. Everything else is
equal to the last digit where two runs of one seed did the same on one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pinrec_core.errors import DataError
from pinrec_core.validation import read_json

LEFT_OUT = (
    "seconds", "interactions_per_second", "mfu", "latency", "median_ms", "p99_ms", "load_average", "dates", "commits",
    "machine", "machines",
)  # fmt: skip
"""Keys of values that are measured in time, or that say when and where they were measured."""


def differences(before: Path, after: Path) -> tuple[int, list[str]]:
    """The number of values compared, and a line for each that differs. Raises ``DataError`` without any figures."""
    old, new = (dict(_values(read_json(path, error=DataError, what="figures"))) for path in (before, after))
    names = sorted(old.keys() | new.keys())
    if not names:
        raise DataError(f"{before}, {after}: expected figures of a study")
    return len(names), [
        f"{name}: {old.get(name, 'absent')!r}, now {new.get(name, 'absent')!r}"
        for name in names
        if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    ]


_ABSENT = object()


def _values(plain: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and text with the name of its place, such as ``runs.uc.seeds.0.training.final_loss``."""
    if isinstance(plain, dict):
        for key, value in plain.items():
            if not any(part in key for part in LEFT_OUT):
                yield from _values(value, f"{name}.{key}" if name else key)
    elif isinstance(plain, list):
        for number, value in enumerate(plain):
            yield from _values(value, f"{name}[{number}]")
    else:
        yield name, plain
