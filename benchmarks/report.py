"""The report of a benchmark: floors, then a row for each timed function, as a table for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.floors import Floor
from benchmarks.machine import MachineCard, load_average
from benchmarks.timing import Timing

Value = str | int | float
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One timed function in one case. ``ratio`` is its median over the baseline's in the same case: below 1 is faster.

    ``floor_ms`` is the least time that the machine needs, or None where no floor applies. ``more`` holds further
    measured values by the name of their column.
    """

    case: Mapping[str, Value]
    what: str
    timing: Timing
    ratio: float | None
    floor_ms: float | None = None
    more: Mapping[str, Value] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        timing = {
            "calls": self.timing.calls,
            "median_ms": _rounded(self.timing.median_ms),
            "p99_ms": _rounded(self.timing.p99_ms),
        }
        more = {name: _rounded(value) for name, value in self.more.items()}
        compared = {"ratio": _rounded(self.ratio), "floor_ms": _rounded(self.floor_ms)}
        return {**self.case, "what": self.what, **timing, **compared, **more}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of one benchmark. ``baseline`` is the ``what`` of those rows that the ratios refer to."""

    benchmark: str
    baseline: str
    settings: Mapping[str, Any]
    floors: Sequence[Floor]
    rows: Sequence[Row]

    def to_dict(self) -> dict[str, Any]:
        floors = [{"name": f.name, "unit": f"{f.unit}/s", "per_second": _rounded(f.per_second)} for f in self.floors]
        rows = [row.to_dict() for row in self.rows]
        return {"baseline": self.baseline, "settings": dict(self.settings), "floors": floors, "rows": rows}


def compare(
    case: Mapping[str, Value],
    timings: Mapping[str, Timing],
    baseline: str,
    *,
    floor_ms: Mapping[str, float] | None = None,
    more: Mapping[str, Mapping[str, Value]] | None = None,
) -> list[Row]:
    """The rows of one case. Each ratio is taken to ``timings[baseline]``."""
    floors, further = floor_ms or {}, more or {}
    return [
        Row(
            case=case,
            what=what,
            timing=timing,
            ratio=timing.median_ms / timings[baseline].median_ms,
            floor_ms=floors.get(what),
            more=further.get(what, {}),
        )
        for what, timing in timings.items()
    ]


def print_card(console: Console, card: MachineCard) -> None:
    hardware = f"{card.cpu}, {card.cores} cores, {card.memory_gib} GiB" + (f", {card.gpu}" if card.gpu else "")
    versions = ", ".join(f"{name} {version}" for name, version in card.versions.items())
    console.print(f"{hardware}; torch threads {card.torch_threads}; load average {card.load_average}")
    console.print(f"{versions}; commit {card.commit}")


def print_result(console: Console, result: Result) -> None:
    """Print the floors, then the table."""
    console.print(f"\n[bold]{result.benchmark}[/bold]  " + ", ".join(f"{k} {v}" for k, v in result.settings.items()))
    for floor in result.floors:
        console.print(f"floor: {floor}")
    cases = list(dict.fromkeys(name for row in result.rows for name in row.case))
    more = list(dict.fromkeys(name for row in result.rows for name in row.more))
    table = Table(caption=f"ratio: median over that of “{result.baseline}”; below 1 is faster", caption_justify="left")
    for name in (*cases, "what"):
        table.add_column(name, no_wrap=True)
    for name in ("median ms", "p99 ms", "calls", "ratio", "floor ms", *more):
        table.add_column(name, justify="right", no_wrap=True)
    previous: Mapping[str, Value] | None = None
    for row in result.rows:
        if previous is not None and row.case != previous:
            table.add_section()
        previous = row.case
        table.add_row(
            *(_text(row.case.get(name)) for name in cases), row.what,
            _text(row.timing.median_ms), _text(row.timing.p99_ms), f"{row.timing.calls:,}",
            _text(row.ratio), _text(row.floor_ms), *(_text(row.more.get(name)) for name in more),
        )  # fmt: skip
    console.print(table)


def document(card: MachineCard, results: Sequence[Result]) -> dict[str, Any]:
    """The JSON document of a whole run."""
    return {"machine": card.to_dict(), "benchmarks": {result.benchmark: result.to_dict() for result in results}}


def save(folder: Path, card: MachineCard, result: Result, *, seconds: float) -> Path:
    """Write ``<benchmark>-<machine>.json`` and return its path.

    The file's ``load_average`` has two values: at the start of the run and at the end of this benchmark. ``seconds`` is
    the time that was spent on each function.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.benchmark}-{card.slug}.json"
    machine = {**card.to_dict(), "load_average": [card.load_average, load_average()]}
    plain = {
        "benchmark": result.benchmark, "machine": machine, "seconds_per_function": seconds, **result.to_dict(),
    }  # fmt: skip
    path.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return path


def write_between(page: Path, start: str, end: str, text: str) -> None:
    """Replace what the page has between the lines ``start`` and ``end``."""
    before, _, rest = page.read_text("utf-8").partition(start)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{start}\n\n{text}\n{end}{after}", "utf-8")


def _rounded(value: Value | None) -> Value | None:
    """Four significant digits, because no timing is more precise than that."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _text(value: Value | None) -> str:
    if value is None:
        return ""
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
