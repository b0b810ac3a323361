"""``python -m benchmarks.operation`` runs the drills, or the named ones, and writes their results."""

from __future__ import annotations

import importlib
import json
import math
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.compose_project import has_engine
from benchmarks.machine import machine_card
from benchmarks.operation.drill import Row, Setting, releases_in, save
from benchmarks.report import RESULTS
from pinrec_core.errors import PinRecError


class Drill(StrEnum):
    """The drills. Each is a module with a function ``run``."""

    KILLS = "kills"
    OVERLOAD = "overload"
    SWAPS = "swaps"
    STOPS = "stops"
    FUZZ = "fuzz"
    SOAK = "soak"
    CONTAINERS = "containers"


def main(
    releases: Annotated[Path, typer.Option(help="Folder of releases; swaps need two, of two training runs.")],
    signals: Annotated[Path, typer.Option(help="Signals folder of their dataset.")],
    drills: Annotated[list[Drill] | None, typer.Argument(help="Which ones.", show_default="all")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The short form: does it work.")] = False,
    serve_option: Annotated[
        list[str] | None, typer.Option(help="Option of `pinrec serve`, as --serve-option=--threads=1. Repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.", show_default="benchmarks/results")] = RESULTS,
) -> None:
    """Do to a server what production does to it, under load, and measure what its clients notice.

    python -m benchmarks.operation kills overload --releases demo/releases --signals demo/dataset/signals

    All of them take an hour and a half, a third of it the soak; with --quick a few minutes.
    """
    stdout, stderr = Console(width=160), Console(stderr=True)
    card = machine_card()
    try:
        impossible = {} if drills else _impossible(releases)
        for drill, reason in impossible.items():
            stderr.print(f"{drill}: left out, {reason}", soft_wrap=True)
        for drill in drills or [drill for drill in Drill if drill not in impossible]:
            setting = Setting(
                releases=releases, signals=signals, options=serve_option or [], quick=quick,
                progress=partial(_say, stderr, drill),
            )  # fmt: skip
            rows = importlib.import_module(f"benchmarks.operation.{drill}").run(setting)
            save(out, card, drill, setting, rows)
            stdout.print(_table(drill, rows))
            print(json.dumps({drill: rows}), flush=True)
    except PinRecError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error


def _impossible(releases: Path) -> dict[Drill, str]:
    """The drills that cannot be run here, each with the reason."""
    reasons = {}
    if len(releases_in(releases)) < 2:
        reasons[Drill.SWAPS] = f"{releases} holds no two releases (of two training runs)"
    if not has_engine():
        reasons[Drill.CONTAINERS] = "no Docker engine runs here"
    return reasons


def _say(console: Console, drill: str, what: str) -> None:
    console.print(f"{drill}: {what}", highlight=False)


def _table(drill: str, rows: list[Row]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(title=drill)
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(_text(row.get(name)) for name in names))
    return table


def _text(value: object) -> str:
    if isinstance(value, float):
        return "never" if math.isinf(value) else f"{value:,.4g}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    typer.run(main)
