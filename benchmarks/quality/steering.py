"""The report's page about steering: what budgets between two outcomes ask for, deliver and find, study by study.

Figures of an earlier form hold other budgets, count items by their labels and have no intervals. What there is of them
is shown, and the page says what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.quality import plots
from benchmarks.quality.budgets import BUDGET, Arm
from benchmarks.quality.markdown import interval, number, sentence, slug, table
from benchmarks.quality.measures import Measure
from benchmarks.quality.protocols import protocol, run_again
from benchmarks.quality.results import StudyResult

FILE = "steering.md"
PLOTS = "steering-*.svg"
_TITLE = """# Steering

A request carries a budget over outcomes, such as 60% clicks and 40% purchases, and each of the items that it is served
is chosen for one outcome. Steering is to move that budget from one outcome to another. This page asks what comes of
it, for held-out users of every log whose study moves a budget.

- **By own embeddings** an item counts for the outcome of the embedding that brought it, looked up in the request's own
  retrieval plan. This is what the service can promise, so it is to lie on the diagonal.
- **By the log's rates** an item counts for every outcome by the share of its interactions with training users that had
  it. This is what users may be expected to do with what they are served. It moves less than the budget, because most
  items draw several outcomes, and no list can be made of other items than there are.
- **Served recall** of an outcome is the share of those targets that truly had it which are among the served items. In
  the second plot a budget is better than another where it lies above it and to the right. Budgets along a falling
  curve trade the targets of one outcome for those of the other.

Figures are means over the seeds. Brackets and bars hold 95% confidence intervals from resampling users, with the seeds
pooled. A dash stands for what was not measured. The goals for what a budget delivers are [with the other
claims](README.md).
"""
Cell = dict[str, Any]
"""A figure: ``value`` and ``ci95``, each None where it is missing."""
Column = tuple[str, str]
"""What is measured, and of which outcome; an empty name stands for all targets."""
_NOTHING = "No study has figures of such a budget yet.\n"


@dataclass(frozen=True, slots=True)
class _Point:
    """One budget of a sweep, by the share of the outcome that it moves to."""

    share: float
    cells: dict[Column, Cell]


def page(studies: Sequence[StudyResult], folder: Path) -> str:
    """The page's text; its plots are written to ``folder``."""
    parts = [part for study in studies if study.runs_with(BUDGET) for part in _study(study, folder)]
    return "\n".join([_TITLE, *parts] if parts else [_TITLE, _NOTHING])


def link(result: StudyResult) -> Iterator[list[str]]:
    """What a study's own page says of its budgets."""
    sweeps = [sweep for run in result.runs_with(BUDGET) for sweep in result.seeds(run, BUDGET)]
    if sweeps:
        start, end = sweeps[0]["from"], sweeps[0]["to"]
        yield ["## Steering", "", f"What budgets from {start} to {end} deliver: [steering]({FILE}#{result.name}).", ""]


def _study(result: StudyResult, folder: Path) -> Iterator[str]:
    about = f"[{result.plain['title']}]({result.name}.md). {sentence(protocol(result, BUDGET))}"
    yield "\n".join([f"## {result.name}", "", about, ""])
    for run in result.runs_with(BUDGET):
        yield "\n".join(_run(result, run, folder))


def _run(result: StudyResult, run: str, folder: Path) -> list[str]:
    sweeps = result.seeds(run, BUDGET)
    start, end = sweeps[0]["from"], sweeps[0]["to"]
    title = result.runs[run]["title"]
    points = [_point(result, run, share, sweeps) for share in _shares(sweeps)]
    columns = {
        f"{start} by own embeddings": ("own", start), f"{end} by own embeddings": ("own", end),
        f"{start} by the log's rates": ("logged", start), f"{end} by the log's rates": ("logged", end),
        "served recall": ("recall", ""), f"of {start}": ("recall", start), f"of {end}": ("recall", end),
    }  # fmt: skip
    rows = [[f"{point.share:.0%}", *(_cell(point.cells[column]) for column in columns.values())] for point in points]
    stem = f"steering-{slug(result.name)}-{slug(run)}"
    plots.save(plots.delivered(_curves(points, end), end), folder / f"{stem}-delivered.svg")
    plots.save(plots.pareto(_pareto(points, start, end), start, end), folder / f"{stem}-pareto.svg")
    seeds = f"{len(sweeps)} seed{'s' if len(sweeps) > 1 else ''}"
    return [
        f"### {title}, from {start} to {end}", "", f"{seeds}.{_missing(result, points)}", "",
        *table([f"budget on {end}", *columns], rows),
        f"![What budgets on {end} deliver: {title}]({stem}-delivered.svg)", "",
        f"![Served recall of {start} and of {end} by budget: {title}]({stem}-pareto.svg)", "",
    ]  # fmt: skip


def _shares(sweeps: Sequence[dict[str, Any]]) -> list[float]:
    return sorted({point["share"] for sweep in sweeps for point in sweep["points"]})


def _point(result: StudyResult, run: str, share: float, sweeps: Sequence[dict[str, Any]]) -> _Point:
    arm, swept = Arm(run, share), (sweeps[0]["from"], sweeps[0]["to"])
    plain = [point for sweep in sweeps for point in sweep["points"] if point["share"] == share]
    cells = {("recall", ""): _figure(result, arm.recall(), _mean(plain, "served_recall"))}
    for outcome in swept:
        recall = _mean(plain, "served_recall_by_outcome", outcome)
        cells["recall", outcome] = _figure(result, arm.recall_of(outcome), recall)
        for by in ("own", "logged"):
            share_of_items = _mean(plain, f"{by}_mix", outcome)
            cells[by, outcome] = _figure(result, arm.delivered(by, outcome), share_of_items)
    return _Point(share, cells)


def _figure(result: StudyResult, measure: Measure, without_users: float | None) -> Cell:
    """The figure of a measure; where its users were not kept, the mean over the seeds alone."""
    found = result.figure(measure)
    if found is None:
        return {"value": without_users, "ci95": None}
    bounds = found["ci95"]
    if not found["targets"] or bounds is None or None in bounds:  # without a target there is no recall
        return {"value": found["value"] if found["targets"] else None, "ci95": None}
    return {"value": found["value"], "ci95": bounds}


def _mean(points: Sequence[dict[str, Any]], name: str, outcome: str | None = None) -> float | None:
    """The mean over the seeds that have the figure."""
    found = [point[name] if outcome is None else point[name].get(outcome) for point in points if name in point]
    values = [value for value in found if value is not None]
    return fmean(values) if values else None


def _missing(result: StudyResult, points: Sequence[_Point]) -> str:
    """What an earlier form of the figures lacks, as sentences; empty where nothing is missing."""
    cells = [(by, cell) for point in points for (by, _), cell in point.cells.items()]
    lacking = []
    if all(cell["value"] is None for by, cell in cells if by == "own"):
        lacking.append("no count by own embeddings")
    if all(cell["ci95"] is None for _, cell in cells):
        lacking.append("no intervals")
    if not lacking:
        return ""
    return f" These figures are of an earlier form, with {' and '.join(lacking)}: `{run_again(result.name)}`."


def _cell(cell: Cell) -> str:
    return number(cell["value"], 3) + ("" if cell["ci95"] is None else f" {interval(cell['ci95'], 3)}")


def _curves(points: Sequence[_Point], end: str) -> dict[str, list[Cell]]:
    """What is delivered of the outcome that the budget moves to, by each way to count that was measured."""
    ways = {"by own embeddings": "own", "by the log's rates": "logged"}
    curves = {
        name: [{"at": p.share, **cell} for p in points if (cell := p.cells[by, end])["value"] is not None]
        for name, by in ways.items()
    }
    return {name: curve for name, curve in curves.items() if curve}


def _pareto(points: Sequence[_Point], start: str, end: str) -> list[dict[str, Any]]:
    """The budgets by served recall of both outcomes, without those that lack either."""
    found = [{"share": p.share, "x": p.cells["recall", start], "y": p.cells["recall", end]} for p in points]
    return [point for point in found if point["x"]["value"] is not None and point["y"]["value"] is not None]
