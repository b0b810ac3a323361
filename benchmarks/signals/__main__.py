"""``python -m benchmarks.signals`` runs the drills and timings of the signal service, or the named ones.

Each result is written to ``benchmarks/results/signals_<part>-<machine>.json``, where ``python -m benchmarks goals``
holds it against its goal. ``python -m benchmarks signals`` times the fetch stage alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import MachineCard, load_average, machine_card
from benchmarks.report import RESULTS
from benchmarks.signals.parts import PARTS, Row
from pinrec_core.errors import PinRecError


class Part(StrEnum):
    """The keys of ``PARTS``."""

    FETCH = "fetch"
    INGEST = "ingest"
    WRITER_KILLS = "writer_kills"
    REDIS_KILLS = "redis_kills"
    PUBLISH_KILLS = "publish_kills"
    FUZZ = "fuzz"
    FEATURES = "features"
    BATCH = "batch"


def main(
    parts: Annotated[list[Part] | None, typer.Argument(help="Which ones.", show_default="all")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The short form: does it work.")] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Where stores are made; the disk that is measured.", show_default="TMPDIR")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.", show_default="benchmarks/results")] = RESULTS,
) -> None:
    """Kill, flood, fuzz and time the signal service.

    python -m benchmarks.signals fetch ingest

    All of them take about an hour, most of it the batch; with --quick a few minutes.
    """
    stdout, stderr = Console(width=160), Console(stderr=True)
    card = machine_card()
    try:
        for part in parts or list(Part):
            stderr.print(f"{part}: {(PARTS[part].__doc__ or '').splitlines()[0]}", highlight=False, soft_wrap=True)
            with tempfile.TemporaryDirectory(prefix=f"pinrec-{part}-", dir=folder) as place:
                rows = PARTS[part](Path(place), quick)
            save(out, card, part, rows, quick=quick)
            stdout.print(table(part, rows))
            print(json.dumps({part: rows}), flush=True)
    except PinRecError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error


def save(folder: Path, card: MachineCard, part: str, rows: list[Row], *, quick: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    machine = {**card.to_dict(), "load_average": [card.load_average, load_average()]}
    plain = {"benchmark": f"signals_{part}", "machine": machine, "settings": {"quick": quick}, "rows": rows}
    text = json.dumps(plain, indent=1, ensure_ascii=False)
    (folder / f"signals_{part}-{card.slug}.json").write_text(text + "\n", "utf-8")


def table(part: str, rows: list[Row]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    drawn = Table(title=part)
    for name in names:
        drawn.add_column(name, justify="right")
    for row in rows:
        drawn.add_row(*(f"{v:,.4g}" if isinstance(v := row.get(name, ""), float) else str(v) for name in names))
    return drawn


if __name__ == "__main__":
    typer.run(main)
