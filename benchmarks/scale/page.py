"""What ``scale`` found, for the page: the plots, and a table of how much costs grow with what grows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench_generator import GPT2
from benchmarks.bench_retrieval import BASELINE as BARE
from benchmarks.report import write_between
from benchmarks.scale import Part, catalogue, load, users
from benchmarks.scale.plots import Rows, draw, read

START, END = "<!-- scale: written by python -m benchmarks scale -->", "<!-- end of scale -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """A cost where what grows is least and where it is largest."""

    grows: str
    cost: str
    sizes: tuple[str, str]
    values: tuple[float, float]


def write(results: Path, slug: str, plots: Path) -> None:
    """Draw the plots of the results that there are in the folder ``plots``.

    They and the table go into the page that has the folder's name and lies beside it, if there is one.
    """
    drawn = draw(results, slug, plots)
    page = plots.with_suffix(".md")
    if page.is_file():
        growths = [growth for part in drawn for growth in GROWTHS[part](read(results, slug, part))]
        images = "".join(f"![Cost against {part}]({plots.name}/{path.name})\n\n" for part, path in drawn.items())
        write_between(page, START, END, images + table(growths))


def table(growths: Sequence[Growth]) -> str:
    head = (
        "| what grows | from | to | what it costs | at first | in the end | factor |\n|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        f"| {g.grows} | {g.sizes[0]} | {g.sizes[1]} | {g.cost} | {_number(g.values[0])} | {_number(g.values[1])} | "
        f"{_number(g.values[1] / g.values[0])} |\n"
        for g in growths
    )


def _of_catalogue(rows: Rows) -> Iterator[Growth]:
    for N in sorted({row["N"] for row in rows if "N" in row}):
        for what in (catalogue.BASELINE, BARE, "retrieve"):
            for B in sorted({row["B"] for row in rows if "B" in row}):
                chosen = [row for row in rows if (row["what"], row.get("N"), row.get("B")) == (what, N, B)]
                yield from _growth("items", f"{what}, N = {N}, batch of {B}, ms", chosen, "V", "median_ms")
    built = [row for row in rows if row["what"] == catalogue.BUILD]
    for name, cost in (("index MiB", "the index, MiB on disk"), ("peak MiB", "building it, MiB of memory")):
        yield from _growth("items", cost, built, "V", name)


def _of_history(rows: Rows) -> Iterator[Growth]:
    for B in sorted({row["B"] for row in rows}):
        for what in (GPT2, "generate", "compiled"):
            chosen = [row for row in rows if (row["what"], row["B"]) == (what, B)]
            yield from _growth("history", f"{what}, batch of {B}, ms", chosen, "T", "median_ms")


def _of_users(rows: Rows) -> Iterator[Growth]:
    for what in (users.WARM, users.COLD):
        chosen = [row for row in rows if row["what"] == what]
        for name, title in (("median_ms", "p50"), ("p99_ms", "p99")):
            yield from _growth("users", f"one history, {what}, {title}, ms", chosen, "users", name)
    built = [row for row in rows if row["what"] == users.BUILD]
    yield from _growth("users", "batch view, MiB", built, "users", "view MiB")


def _of_load(rows: Rows) -> Iterator[Growth]:
    offered = [row for row in rows if row["what"] == load.OPEN]
    names = {
        "median_ms": "p50, ms",
        "p99_ms": "p99, ms",
        "answered/s": "answered in time, requests/s",
        "recovery s": "until a request is answered after the load, s",
    }
    for name, title in names.items():
        yield from _growth("load", title, offered, "load", name)


GROWTHS = {
    Part.CATALOGUE: _of_catalogue,
    Part.HISTORY: _of_history,
    Part.USERS: _of_users,
    Part.LOAD: _of_load,
}


def _growth(grows: str, cost: str, rows: Rows, size: str, value: str) -> Iterator[Growth]:
    """From the first of ``rows`` to the last; nothing where this machine has no such rows."""
    if rows:
        first, last = rows[0], rows[-1]
        sizes = [text if isinstance(text, str) else f"{text:,}" for text in (first[size], last[size])]
        yield Growth(grows=grows, cost=cost, sizes=(sizes[0], sizes[1]), values=(first[value], last[value]))


def _number(value: float) -> str:
    """Three significant digits, and all of those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
