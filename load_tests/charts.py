"""The plots of a report as SVG texts, to be put into a page.

Texts and axes have the colour of the page's text (``currentColor``) and there is no background, so that a plot can be
read on a light page and on a dark one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("svg")  # needs no display
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from pinrec_client.contract import ENSEMBLE

from load_tests.report import Report
from load_tests.shapes import SPIKE

_INK = "#010203"  # stands for the colour of the page's text until the SVG is written
BLUE, ORANGE, RED, GREY = "#3b82c4", "#e08a1e", "#d64545", "#8a8f98"
STAGE_COLOURS = ("#3b82c4", "#e08a1e", "#2f9e6e", "#b565c9", "#d64545", "#8a8f98", "#c9a227")
_WIDTH, _HEIGHT = 9.0, 2.9  # inches

_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "font.size": 9,
}


def charts(report: Report) -> Iterator[tuple[str, str]]:
    """A caption and an SVG for every plot that this report has figures for."""
    if report.timeline:
        yield "Latency by second of arrival, ms", _svg("latency", lambda axes: _latency(axes, report))
        yield "Requests per second, by second of arrival", _svg("rates", lambda axes: _rates(axes, report))
    if report.steps:
        yield (
            "Saturation: goodput against offered requests per second",
            _svg("curve", lambda axes: _curve(axes, report)),
        )
        yield (
            "Saturation: latency against offered requests per second, ms",
            _svg("p99", lambda axes: _steps(axes, report)),
        )
    if report.stage_timeline:
        for name, title in (("queue_ms", "Queue"), ("compute_ms", "Compute")):
            caption = f"{title} by stage, mean ms per request, from the server's counters"
            yield caption, _svg(name, lambda axes, name=name: _stages(axes, report, name))  # type: ignore[misc]
    if len(report.memory_samples) > 1:
        yield "Memory of the server, MiB (PSS of all its processes)", _svg("memory", lambda axes: _memory(axes, report))


def _latency(axes: Axes, report: Report) -> None:
    time = [interval.start - report.start for interval in report.timeline]
    axes.plot(time, _values(i.p99 for i in report.timeline), color=ORANGE, label="p99", linewidth=1.4)
    axes.plot(time, _values(i.p50 for i in report.timeline), color=BLUE, label="p50", linewidth=1.4)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    _over_time(axes, report)


def _rates(axes: Axes, report: Report) -> None:
    time = [interval.start - report.start for interval in report.timeline]
    for name, colour, label in (
        ("offered_per_second", GREY, "offered"),
        ("accepted_per_second", BLUE, "accepted"),
        ("refused_per_second", ORANGE, "refused"),
        ("failed_per_second", RED, "failed or timed out"),
    ):
        axes.plot(time, [getattr(i, name) for i in report.timeline], color=colour, label=label, linewidth=1.4)
    axes.set_ylim(bottom=0)
    _over_time(axes, report)


def _over_time(axes: Axes, report: Report) -> None:
    axes.set_xlabel("seconds")
    if report.spike_at is not None:
        start, end = report.spike_at
        axes.axvspan(start - report.start, end - report.start, color=GREY, alpha=0.18, label=SPIKE, linewidth=0)
    axes.legend(ncols=5, loc="lower left", bbox_to_anchor=(0, 1))


def _curve(axes: Axes, report: Report) -> None:
    offered = [step.offered for step in report.steps]
    axes.plot([0, max(offered)], [0, max(offered)], color=GREY, linestyle=":", label="all of it")
    axes.plot(offered, [step.goodput for step in report.steps], color=BLUE, marker="o", label="goodput")
    axes.plot(offered, [step.refused for step in report.steps], color=ORANGE, marker="o", label="refused")
    axes.set_xlabel("offered requests per second")
    axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1))


def _steps(axes: Axes, report: Report) -> None:
    offered = [step.offered for step in report.steps]
    axes.plot(offered, _values(step.p50 for step in report.steps), color=BLUE, marker="o", label="p50")
    axes.plot(offered, _values(step.p99 for step in report.steps), color=ORANGE, marker="o", label="p99")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.set_xlabel("offered requests per second")
    axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1))


def _stages(axes: Axes, report: Report, name: str) -> None:
    stages = sorted({stage for interval in report.stage_timeline for stage in interval.stages} - {ENSEMBLE})
    for stage, colour in zip(stages, _cycle(STAGE_COLOURS, len(stages)), strict=True):
        points = [
            (i.time - report.start, getattr(i.stages[stage], name)) for i in report.stage_timeline if stage in i.stages
        ]
        axes.plot(*zip(*points, strict=True), color=colour, label=stage, linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1))


def _memory(axes: Axes, report: Report) -> None:
    axes.plot(
        [sample.time - report.start for sample in report.memory_samples],
        [sample.pss_mib for sample in report.memory_samples],
        color=BLUE,
        linewidth=1.4,
    )
    axes.set_xlabel("seconds")


def _values(values: Iterator[float | None]) -> list[float]:
    """Where there is no value the line has a gap."""
    return [float("nan") if value is None else value for value in values]


def _cycle(colours: Sequence[str], n: int) -> list[str]:
    return [colours[k % len(colours)] for k in range(n)]


def _svg(name: str, draw: Callable[[Axes], None]) -> str:
    """One plot. Its ids begin with ``name``, because all plots of a page share one space of ids."""
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure, axes = plt.subplots(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[^"]*pt"', "", svg, count=2)  # the page decides, by the viewBox
    return svg.replace(_INK, "currentColor")
