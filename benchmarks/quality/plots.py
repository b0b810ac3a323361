"""The report's plots as SVG, with the same bytes for the same figures. Each function draws one plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.use("svg")
matplotlib.rcParams.update(
    {
        "svg.hashsalt": "pinrec",  # without it the ids of clip paths and glyphs are random
        "svg.fonttype": "none",  # text stays text, so that files are small and do not depend on installed fonts
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
    }
)
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280", "#718096")
_ERROR_BARS = {"markersize": 3, "capsize": 2}
_NAME_WIDTH = 48  # characters of a bar's name in one line


def save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def bars(figures: Mapping[str, Mapping[str, Any]], label: str) -> Figure:
    """One horizontal bar with its interval per name. ``figures`` is ``{name: {"value": …, "ci95": …}}``."""
    names = list(figures)
    value = np.array([figures[name]["value"] for name in names])
    bounds = [figures[name]["ci95"] or (v, v) for name, v in zip(names, value, strict=True)]
    # As lists: from an array, Matplotlib would take the first column for a number, at which NumPy warns.
    error = np.abs(np.array(bounds).T - value).tolist()
    drawing, axes = _new(height=0.9 + 0.32 * len(names))
    at = np.arange(len(names))[::-1]
    axes.barh(at, value, xerr=error, color=COLOURS[0], height=0.62, error_kw={"elinewidth": 1, "capsize": 2})
    axes.set_yticks(at, [fill(name, _NAME_WIDTH) for name in names])
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)
    return drawing


def embeddings_per_step(by_run: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Recall, diversity and latency against W, each relative to one per step.

    A point has ``width`` and one value for each of the three.
    """
    drawing = Figure(figsize=(9, 2.8))
    for number, (name, title) in enumerate(
        (("recall", "unordered recall"), ("diversity", "diversity"), ("latency", "latency")), 1
    ):
        axes = drawing.add_subplot(1, 3, number)
        for colour, (run, points) in zip(COLOURS, by_run.items(), strict=False):
            width = [point["width"] for point in points]
            axes.plot(width, [p[name] / points[0][name] for p in points], "o-", color=colour, label=run, markersize=3)
        axes.axhline(1, color="#718096", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_xticks(width, [str(w) for w in width])
        axes.set_xlabel("offsets per step")
        axes.set_title(f"{title} / that of one per step", fontsize=9)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return drawing


def heat_map(ratio: np.ndarray, outcomes: Sequence[str]) -> Figure:
    """Controllability: recall divided by the reference's, ``[O, O]``: the true outcome by the desired one."""
    drawing, axes = _new(width=1.6 + 0.95 * len(outcomes), height=1.4 + 0.5 * len(outcomes))
    largest = max(0.05, float(np.nanmax(np.abs(ratio - 1), initial=0.05)))
    axes.imshow(ratio, cmap="RdBu", vmin=1 - largest, vmax=1 + largest, aspect="auto")
    for (row, column), value in np.ndenumerate(ratio):
        axes.text(
            column,
            row,
            "–" if np.isnan(value) else f"{value:.2f}",
            ha="center",
            va="center",
            color="white" if abs(value - 1) > 0.7 * largest else "black",
        )
    names = [name.replace("interaction_item_", "").replace("_", "\n") for name in outcomes]
    axes.set_xticks(range(len(outcomes)), names)
    axes.set_yticks(range(len(outcomes)), names)
    axes.grid(visible=False)
    axes.set_xlabel("all budget on")
    axes.set_ylabel("true outcome of the target")
    return drawing


def delivered(curves: Mapping[str, Sequence[Mapping[str, Any]]], outcome: str) -> Figure:
    """What budgets deliver of an outcome beside what they ask for, which is the diagonal.

    A point of a curve has the budget ``at``, its ``value`` and ``ci95``.
    """
    drawing, axes = _new(width=4.5, height=3.4)
    # Above the curves, because one of them is to lie on it.
    axes.plot([0, 1], [0, 1], "--", color="black", linewidth=0.8, label="as asked for", zorder=5)
    for colour, (name, points) in zip(COLOURS, curves.items(), strict=False):
        at, value = ([point[key] for point in points] for key in ("at", "value"))
        axes.errorbar(at, value, yerr=_errors(points), fmt="o-", color=colour, label=name, **_ERROR_BARS)
    axes.set_xlabel(f"share of the budget on {outcome}")
    axes.set_ylabel(f"share of the served items, {outcome}")
    axes.legend(frameon=False)
    return drawing


def pareto(points: Sequence[Mapping[str, Any]], start: str, end: str) -> Figure:
    """Served recall of the targets of one outcome against that of another, by the share of the budget on ``end``.

    A point has its ``share``, and ``value`` and ``ci95`` in both ``x`` and ``y``.
    """
    drawing, axes = _new(width=4.5, height=3.4)
    x, y = ([point[axis] for point in points] for axis in "xy")
    axes.errorbar(
        [cell["value"] for cell in x], [cell["value"] for cell in y], xerr=_errors(x), yerr=_errors(y), fmt="o-",
        color=COLOURS[0], elinewidth=0.6, **_ERROR_BARS,
    )  # fmt: skip
    for point in points:
        axes.annotate(
            f"{point['share']:.0%}", (point["x"]["value"], point["y"]["value"]), xytext=(4, 4),
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    axes.set_xlabel(f"served recall of {start}")
    axes.set_ylabel(f"served recall of {end}")
    axes.set_title(f"by share of the budget on {end}", fontsize=9)
    return drawing


def loss_by_epoch(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """The loss of every run by epoch: in training (dashed) and on held-out users (solid)."""
    drawing, axes = _new(height=3.2)
    for colour, (run, epochs) in zip(COLOURS, curves.items(), strict=False):
        number = [epoch["epoch"] for epoch in epochs]
        axes.plot(number, [epoch["loss"] for epoch in epochs], "--", color=colour, linewidth=1)
        held_out = [np.nan if epoch["held_out_loss"] is None else epoch["held_out_loss"] for epoch in epochs]
        axes.plot(number, held_out, "o-", color=colour, label=run, markersize=3)
    axes.set_xlabel("epoch (dashed: training, solid: held-out users)")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)
    return drawing


def _errors(cells: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """How far each interval reaches below and above its value; a value without one has an interval of no width."""
    bounds = [(cell["value"], *(cell["ci95"] or (cell["value"], cell["value"]))) for cell in cells]
    return [[value - low for value, low, _ in bounds], [high - value for value, _, high in bounds]]


def _new(*, width: float = 6.5, height: float) -> tuple[Figure, Axes]:
    drawing = Figure(figsize=(width, height))
    return drawing, drawing.add_subplot()
