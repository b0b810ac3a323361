"""The plots of ``scale`` as SVG, each drawn from the result of one part."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.bench_generator import GPT2
from benchmarks.bench_retrieval import BASELINE as BARE
from benchmarks.quality.plots import COLOURS, save
from benchmarks.scale import Part, catalogue, load, users

Rows = Sequence[Mapping[str, Any]]


def draw(results: Path, slug: str, folder: Path) -> dict[Part, Path]:
    """A plot for every part that has a result of the machine ``slug`` in ``results``; the paths by part."""
    drawn = {}
    for part, figure in FIGURES.items():
        if _path(results, slug, part).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            drawn[part] = folder / f"scale-{part}.svg"
            save(figure(read(results, slug, part)), drawn[part])
    return drawn


def read(results: Path, slug: str, part: Part) -> Rows:
    """The rows of a part's result."""
    return json.loads(_path(results, slug, part).read_text("utf-8"))["rows"]


def _path(results: Path, slug: str, part: Part) -> Path:
    return results / f"scale_{part}-{slug}.json"


def catalogue_figure(rows: Rows) -> Figure:
    """Milliseconds per request against the catalogue, for each N at the largest batch; bytes and seconds to build."""
    B = max(row["B"] for row in rows if "B" in row)
    sizes = sorted({row["N"] for row in rows if "N" in row})
    figure, panels = _panels(len(sizes) + 1)
    for axes, N in zip(panels, sizes, strict=False):
        for what in (catalogue.BASELINE, BARE, "retrieve"):
            chosen = [row for row in rows if row["what"] == what and row.get("N") == N and row.get("B") == B]
            _line(axes, [(row["V"], row["median_ms"] / B) for row in chosen], what)
        _label(axes, f"N = {N}, batches of {B}", "items", "ms per request", log="xy")
    built = [row for row in rows if row["what"] == catalogue.BUILD]
    _line(panels[-1], [(row["V"], row["median_ms"] / 1e3) for row in built], "seconds to build")
    _line(panels[-1], [(row["V"], row["index MiB"]) for row in built], "MiB on disk")
    _line(panels[-1], [(row["V"], row["peak MiB"]) for row in built], "MiB of memory to build")
    _label(panels[-1], "the index", "items", "", log="xy")
    return figure


def history_figure(rows: Rows) -> Figure:
    """Milliseconds per batch against the length of the history, for each batch size."""
    batches = sorted({row["B"] for row in rows})
    figure, panels = _panels(len(batches))
    for axes, B in zip(panels, batches, strict=True):
        for what in (GPT2, "generate", "compiled"):
            chosen = [row for row in rows if row["what"] == what and row["B"] == B]
            _line(axes, [(row["T"], row["median_ms"]) for row in chosen], what)
        _label(axes, f"batch of {B}", "items of history", "ms", log="xy")
        lengths = sorted({row["T"] for row in rows})
        axes.set_xticks(lengths, [str(T) for T in lengths])
        axes.minorticks_off()
    return figure


def users_figure(rows: Rows) -> Figure:
    """Milliseconds to fetch one history against the number of users; bytes of the stores."""
    figure, panels = _panels(2)
    for what in (users.COLD, users.WARM):
        chosen = [row for row in rows if row["what"] == what]
        _line(panels[0], [(row["users"], row["median_ms"]) for row in chosen], f"{what}, p50")
        _line(panels[0], [(row["users"], row["p99_ms"]) for row in chosen], f"{what}, p99", dashed=True)
    decoded = [row for row in rows if row["what"] == users.BASELINE]
    _line(panels[0], [(row["users"], row["median_ms"]) for row in decoded], f"{users.BASELINE}, p50")
    _label(panels[0], "one history", "users", "ms", log="xy")
    built = [row for row in rows if row["what"] == users.BUILD]
    _line(panels[1], [(row["users"], row["view MiB"]) for row in built], "batch view, MiB")
    _line(panels[1], [(row["users"], row["real-time MiB"]) for row in built], "real-time store, MiB")
    _line(panels[1], [(row["users"], row["median_ms"] / 1e3) for row in built], "seconds to write the view")
    _label(panels[1], "on disk", "users", "", log="xy")
    return figure


def load_figure(rows: Rows) -> Figure:
    """Latency, and requests answered, against the offered share of the saturation."""
    offered = [row for row in rows if row["what"] == load.OPEN]
    share = [float(row["load"].rstrip("%")) for row in offered]
    figure, panels = _panels(2)
    for name, title in (("median_ms", "p50"), ("p95_ms", "p95"), ("p99_ms", "p99")):
        _line(panels[0], zip(share, (row[name] for row in offered), strict=True), title)
    _label(panels[0], "latency from the scheduled arrival", "% of the saturation", "ms", log="xy")
    for name, title in (("offered/s", "offered"), ("answered/s", "answered in time")):
        _line(panels[1], zip(share, (row[name] for row in offered), strict=True), title)
    _label(panels[1], "requests", "% of the saturation", "per second", log="x")
    panels[1].set_ylim(bottom=0)
    for axes in panels:
        axes.set_xticks(share, [f"{value:.0f}" for value in share])
        axes.minorticks_off()
    return figure


FIGURES: dict[Part, Callable[[Rows], Figure]] = {
    Part.CATALOGUE: catalogue_figure,
    Part.HISTORY: history_figure,
    Part.USERS: users_figure,
    Part.LOAD: load_figure,
}


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(3.4 * count + 0.4, 3.2))
    return figure, [figure.add_subplot(1, count, number) for number in range(1, count + 1)]


def _line(axes: Axes, points: Iterable[tuple[float, float]], name: str, *, dashed: bool = False) -> None:
    """One line. A dashed one has the colour of the line before it."""
    found = list(points)
    if not found:  # a row that this machine does not have, such as the compiled program
        return
    solid = [line for line in axes.lines if line.get_linestyle() == "-"]
    colour = COLOURS[len(solid) - dashed]
    axes.plot(*zip(*found, strict=True), "o--" if dashed else "o-", color=colour, label=name, markersize=3)


def _label(axes: Axes, title: str, across: str, up: str, *, log: str) -> None:
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend(frameon=False, fontsize=7)
