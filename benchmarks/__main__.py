"""``python -m benchmarks`` runs all benchmarks, or the named ones.

It prints a table for each of them, and one JSON document as the last line. Each result is also written to
``benchmarks/results/<benchmark>-<machine>.json``.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks import goals
from benchmarks.demo import Prepared
from benchmarks.machine import machine_card
from benchmarks.options import Options, Progress
from benchmarks.report import RESULTS, Result, document, print_card, print_result, save
from pinrec_core.config.presets import preset as preset_named
from pinrec_core.errors import PinRecError
from pinrec_serving.deployment import default_threads

TABLE_WIDTH = 160  # for output that does not go to a terminal


class Benchmark(StrEnum):
    """The benchmarks. Each is a module ``bench_<name>.py`` with a function ``run``."""

    GENERATOR = "generator"
    PROGRAM = "program"
    GPU = "gpu"
    """Only where there is a CUDA device; by name it says that it needs one."""
    ID_EMBEDDER = "id_embedder"
    ID_TABLES = "id_tables"
    RETRIEVAL = "retrieval"
    SIGNALS = "signals"
    ENSEMBLE = "ensemble"
    GOALS = "goals"
    """Measures nothing: it holds the goals against the results, alone."""


def main(
    names: Annotated[
        list[Benchmark] | None, typer.Argument(help="Which ones; all without.", show_default=False)
    ] = None,
    preset: Annotated[list[str] | None, typer.Option(help="Model sizes: tiny, small, base. Repeatable.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Seconds instead of minutes: does it run, about how fast.")
    ] = False,
    release: Annotated[
        Path | None, typer.Option(help="A release, or a folder of releases (its current one).", show_default="a demo")
    ] = None,
    signals: Annotated[Path | None, typer.Option(help="The signals it reads.", show_default="a demo")] = None,
    demo: Annotated[
        Path | None, typer.Option(help="Where the demo is, or is built.", show_default="a temporary folder")
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(help="Threads per process. Repeatable: the ensemble compares them.", show_default="as serve"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.", show_default="benchmarks/results")] = RESULTS,
) -> None:
    """Time the stages and the ensemble of PinRec on this machine."""
    console = Console()
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    presets = tuple(preset or ("tiny", "small"))
    try:
        for name in presets:
            preset_named(name)
        options = Options(
            quick=quick,
            presets=presets,
            prepared=Prepared(release=release, signals=signals, demo=demo),
            release=release,
            threads_compared=tuple(threads or (default_threads(),)),
        )
        if names == [Benchmark.GOALS]:
            lines = goals.collect(out, machine_card().slug)
            goals.write(lines, out)
            print(json.dumps([asdict(line) for line in lines], ensure_ascii=False))
            return
        possible = [name for name in Benchmark if name is not Benchmark.GPU or torch.cuda.is_available()]
        measured = [name for name in names or possible if name is not Benchmark.GOALS]
        results = _run(measured, options, out, console)
    except PinRecError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
    print(json.dumps(results, ensure_ascii=False))


def _run(names: list[Benchmark], options: Options, out: Path, console: Console) -> dict[str, object]:
    torch.set_num_threads(options.threads)
    card = machine_card()
    print_card(console, card)
    stderr = Console(stderr=True)
    results: list[Result] = []
    for number, name in enumerate(names, 1):
        module = importlib.import_module(f"benchmarks.bench_{name.value}")
        heading = f"{number}/{len(names)} {name.value}"
        with stderr.status(heading) as status:
            result = module.run(options, _progress(stderr, status.update, heading))
        print_result(console, result)
        save(out, card, result, seconds=options.seconds)
        results.append(result)
    return document(card, results)


def _progress(stderr: Console, update: Callable[[str], None], heading: str) -> Progress:
    """A function that shows what is being timed: in place on a terminal, line by line elsewhere."""
    if stderr.is_terminal:
        return lambda doing: update(f"{heading}: {doing}")
    return lambda doing: stderr.print(f"{heading}: {doing}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
