"""``python -m benchmarks`` runs all benchmarks, or the named ones.

It prints a table for each of them, and one JSON document as the last line. Each result is also written to
``benchmarks/results/<benchmark>-<machine>.json``.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
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
from benchmarks.scale import Part
from pinrec_core.config.presets import preset as preset_named
from pinrec_core.errors import PinRecError
from pinrec_serving.options import default_threads

TABLE_WIDTH = 160  # for output that does not go to a terminal
PLOTS = Path(__file__).parents[1] / "docs" / "benchmarks"


class Benchmark(StrEnum):
    """The benchmarks. Each is a module ``bench_<name>.py`` with a function ``run``, unless it says otherwise."""

    GENERATOR = "generator"
    PROGRAM = "program"
    GPU = "gpu"
    """Only where there is a CUDA device; by name it says that it needs one."""
    ID_EMBEDDER = "id_embedder"
    ID_TABLES = "id_tables"
    ID_SERVICE = "id_service"
    RETRIEVAL = "retrieval"
    SIGNALS = "signals"
    ENSEMBLE = "ensemble"
    MEMORY = "memory"
    ONE_STEP = "one_step"
    """Trains two models, to judge what they serve. It runs when it is named."""
    RELEASE = "release"
    """Of a run that is named with ``--run``: how long `pinrec release` takes. It runs when it is named."""
    SCALE = "scale"
    """Parts of its own, in ``benchmarks/scale``. It runs when it is named, because it takes most of an hour."""
    GOALS = "goals"
    """Measures nothing: it holds the goals against the results, alone."""


def main(
    names: Annotated[
        list[Benchmark] | None,
        typer.Argument(help="Which ones.", show_default="all but one_step, release, scale, goals"),
    ] = None,
    preset: Annotated[list[str] | None, typer.Option(help="Model sizes: tiny, small, base. Repeatable.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Seconds instead of minutes: does it run, about how fast.")
    ] = False,
    release: Annotated[
        Path | None, typer.Option(help="A release, or a folder of releases (its current one).", show_default="a demo")
    ] = None,
    signals: Annotated[Path | None, typer.Option(help="The signals it reads.", show_default="a demo")] = None,
    run: Annotated[Path | None, typer.Option(help="Of release: the run to release.", show_default=False)] = None,
    demo: Annotated[
        Path | None, typer.Option(help="Where the demo is, or is built.", show_default="a temporary folder")
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(help="Threads per process. Repeatable: the ensemble compares them.", show_default="as serve"),
    ] = None,
    part: Annotated[list[Part] | None, typer.Option(help="Of scale: what grows. Repeatable; all without.")] = None,
    max_items: Annotated[
        int, typer.Option(help="Of scale: the largest catalogue. 10 million take most of an hour.", min=1)
    ] = 1_000_000,
    max_users: Annotated[int, typer.Option(help="Of scale: the most users.", min=1)] = 1_000_000,
    out: Annotated[Path, typer.Option(help="Folder for the results.", show_default="benchmarks/results")] = RESULTS,
    plots: Annotated[Path, typer.Option(help="Folder for the plots of scale.", show_default="docs/benchmarks")] = PLOTS,
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
            run=run,
            max_items=max_items,
            max_users=max_users,
        )
        if names == [Benchmark.GOALS]:
            lines = goals.collect(out, machine_card().slug)
            goals.write(lines, out, goals.PAGES)
            print(json.dumps([asdict(line) for line in lines], ensure_ascii=False))
            return
        possible = [name for name in Benchmark if name is not Benchmark.GPU or torch.cuda.is_available()]
        named_alone = (Benchmark.ONE_STEP, Benchmark.RELEASE, Benchmark.SCALE, Benchmark.GOALS)
        measured = names or [name for name in possible if name not in named_alone]
        results = _run(list(_modules(measured, part or list(Part))), options, out, console)
        if Benchmark.SCALE in measured and not quick:
            from benchmarks.scale.page import write  # its plots need matplotlib, which nothing else here does

            write(out, machine_card().slug, plots)
    except PinRecError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
    print(json.dumps(results, ensure_ascii=False))


def _modules(names: Sequence[Benchmark], parts: Sequence[Part]) -> Iterator[tuple[str, str]]:
    """What is shown of each benchmark, and the module that runs it."""
    for name in names:
        if name is Benchmark.SCALE:
            yield from ((f"{name} {part}", f"benchmarks.scale.{part}") for part in parts)
        elif name is not Benchmark.GOALS:
            yield name, f"benchmarks.bench_{name}"


def _run(modules: Sequence[tuple[str, str]], options: Options, out: Path, console: Console) -> dict[str, object]:
    torch.set_num_threads(options.threads)
    card = machine_card()
    print_card(console, card)
    stderr = Console(stderr=True)
    results: list[Result] = []
    for number, (name, path) in enumerate(modules, 1):
        module = importlib.import_module(path)
        heading = f"{number}/{len(modules)} {name}"
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
