"""``python -m benchmarks.quality prepare | run | status | collect | report``.

The commands lead from public logs, over trainings and evaluations, to ``docs/results``.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.demo import pinrec_command
from benchmarks.machine import ROOT
from benchmarks.quality import claims, judge, report, results
from benchmarks.quality.differences import differences
from benchmarks.quality.schedule import Piece, in_words, run_pieces
from benchmarks.quality.study import TIMED, Study, load_study, study_names
from benchmarks.quality.work_folder import Place, place_of, places_of, settle_outdated, turn
from benchmarks.quality.worker import new_job
from pinrec_cli import ending
from pinrec_core.dataset.manifest import SEQUENCES
from pinrec_core.errors import ConfigError, DataError, require
from pinrec_core.files.folder_lock import locked

WORK = ROOT / "runs" / "quality"
DATA = ROOT.parent / "shared" / "data"

app = typer.Typer(
    help="Train, judge and report: every figure of docs/results. "
    "Start with `python -m benchmarks.quality run ml100k`, then `python -m benchmarks.quality report`.",
    cls=ending.Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

StudyNames = Annotated[
    list[str],
    typer.Argument(help=f"One or more of {', '.join(study_names())}, or a TOML file of your own.", show_default=False),
]
Data = Annotated[Path, typer.Option(help="Folder of the logs.", show_default="../shared/data")]
Work = Annotated[Path, typer.Option(help="Folder of runs and evaluations.", show_default="runs/quality")]
Datasets = Annotated[
    Path | None, typer.Option(help="Folder of prepared datasets, one per name.", show_default="WORK/datasets")
]
Out = Annotated[Path, typer.Option(help="Folder of the figures.", show_default="benchmarks/results/quality")]


@app.command()
def prepare(studies: StudyNames, data: Data = DATA, work: Work = WORK, datasets: Datasets = None) -> None:
    """Prepare the logs of the studies where they are not prepared yet.

    Example: python -m benchmarks.quality prepare yelp globo
    """
    for study in map(load_study, studies):
        prepared(study, data, datasets or work / "datasets")


@app.command()
def run(
    studies: StudyNames,
    only: Annotated[
        list[str] | None, typer.Option(help="A run of the study, with those it needs. Repeatable.", show_default="all")
    ] = None,
    workers: Annotated[int, typer.Option(help="Trainings and evaluations at a time; 0: one by one, here.", min=0)] = 2,
    threads: Annotated[int, typer.Option(help="Threads of each worker.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="Where models train: cpu, cuda …")] = "cpu",
    data: Data = DATA,
    work: Work = WORK,
    datasets: Datasets = None,
    out: Out = results.FOLDER,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Delete, and make again, what was made to another specification than now."),
    ] = False,
) -> None:
    """Train every run of the studies that is missing, judge it, and write its figures.

    Interrupt it at any time and give the same command again: what is finished stays, and a killed training goes on
    from its last checkpoint. A run that fails does not stop the others. Each run's log is WORK/STUDY/RUN-SEED/log.txt.

    Example: python -m benchmarks.quality run yelp --only uc --only pinnerformer
    """
    failed: dict[str, str] = {}
    for name in studies:
        study = load_study(name)
        failed |= run_study(
            study, name, only=only, workers=workers, threads=threads, device=device, data=data, work=work,
            datasets=datasets or work / "datasets", out=out, overwrite=overwrite,
        )  # fmt: skip
    for piece, reason in failed.items():
        say(f"failed: {piece}: {reason}")
    if failed:
        raise typer.Exit(1)
    say("next: python -m benchmarks.quality report")


@app.command()
def status(studies: StudyNames, work: Work = WORK) -> None:
    """Say of every run and seed what is done, missing, or made to another specification than the study's now.

    Example: python -m benchmarks.quality status yelp
    """
    for study in map(load_study, studies):
        for place in places_of(study, list(study.runs.values()), work):
            outdated = ", ".join(f"{path.name}: {difference}" for path, difference in place.outdated())
            missing = ", ".join(place.missing_evaluations())
            trained = "trained" if place.is_trained() else "to train"
            print(f"{study.name} {place.id}: {trained}; to evaluate: {missing or '–'}; outdated: {outdated or '–'}")


@app.command()
def collect(
    studies: StudyNames, work: Work = WORK, datasets: Datasets = None, out: Out = results.FOLDER, data: Data = DATA
) -> None:
    """Write the figures of what is finished, of an interrupted study too, and train nothing.

    Example: python -m benchmarks.quality collect yelp
    """
    for study in map(load_study, studies):
        with _alone(work, study):
            path = _collect(study, work, prepared(study, data, datasets or work / "datasets"), out)
        say(f"{study.name}: figures in {path}")


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="Figures of a study, as `run` and `collect` write them.")],
    after: Annotated[Path, typer.Argument(help="Figures of the same study, made by other code.")],
) -> None:
    """Say which figures a change of the code changed, times left out. The exit status is 1 if any figure changed.

    On one thread, two runs of the same code give equal figures to the last digit (--workers 1 --threads 1).

    Example: python -m benchmarks.quality compare before/ml100k.json after/ml100k.json
    """
    compared, lines = differences(before, after)
    for line in lines:
        print(line)
    say(f"{compared:,} values compared, {len(lines):,} differ")
    if lines:
        raise typer.Exit(1)


@app.command(name="report")
def report_(
    from_: Annotated[
        Path, typer.Option("--results", help="Folder of the figures.", show_default="benchmarks/results/quality")
    ] = results.FOLDER,
    out: Annotated[Path, typer.Option(help="Folder of the report.", show_default="docs/results")] = report.FOLDER,
) -> None:
    """Write the report from the figures alone: no log, no run and no model is read.

    The headlines go into the project's README as well, unless the report goes elsewhere.

    Example: python -m benchmarks.quality report
    """
    rows = report.write_report(from_, out, report.README if out == report.FOLDER else None)
    reached = sum(row["reached"] is True for row in rows)
    say(f"{len(rows)} figures, {reached} of {sum(row['reached'] is not None for row in rows)} goals reached: {out}")


def run_study(
    study: Study, given: str, *, only: list[str] | None, workers: int, threads: int, device: str, data: Path,
    work: Path, datasets: Path, out: Path, overwrite: bool,
) -> dict[str, str]:  # fmt: skip
    """Run what is left of a study and collect its figures. → the reason for each failure, by the piece that failed.

    ``given`` is the name or path that the study was asked for by.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)  # so that it fails now, and not after hours of work
    with _alone(work, study):
        dataset = prepared(study, data, datasets)
        judge.check(study, dataset)
        chosen = places_of(study, study.with_dependencies(only or study.runs), work)
        _check_nothing_is_lost(study, _finished(study, work) | _planned(chosen), out)
        settle_outdated(chosen, overwrite=overwrite)
        pieces = _pieces(study, given, chosen, dataset, work, device)
        say(f"{study.name}: {len(chosen)} runs and seeds, {len(pieces)} pieces of work; logs: {work / study.name}")
        failed = run_pieces(pieces, workers=workers, threads=threads, report=say)
        try:
            path = _collect(study, work, dataset, out)
        except ConfigError as error:  # `out` has earlier figures of a piece that failed now
            if not failed:
                raise
            failed["figures"] = str(error)
        else:
            say(f"{study.name}: figures in {path}, after {in_words(time.monotonic() - started)}")
    return {f"{study.name} {piece}": reason for piece, reason in failed.items()}


@contextmanager
def _alone(work: Path, study: Study) -> Iterator[None]:
    """Keep other processes off this study in this folder. Raises ``ConfigError`` while one works on it."""
    folder = work / study.name
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, refusal=f"{folder}: expected no other process to work on it"):
        yield


def _collect(study: Study, work: Path, dataset: Path, out: Path) -> Path:
    """Write the figures of all that is finished and up to date to ``out``; returns the path of the file."""
    _check_nothing_is_lost(study, _finished(study, work), out)
    outcomes = list(judge.dataset_card(dataset)["outcomes"])
    with turn(work, alone=False, waiting=lambda: say("waiting for a piece that measures time")):
        figures = results.collect(study, _current(study, work), dataset, claims.pairs_of(study.name, outcomes))
    return results.save(figures, out)


def _current(study: Study, work: Path) -> list[Place]:
    return [place for place in places_of(study, list(study.runs.values()), work) if not any(place.outdated())]


def _finished(study: Study, work: Path) -> set[results.Part]:
    """The trainings and evaluations that are finished in the work folder."""
    return {
        (place.id, kind) for place in _current(study, work) if place.is_started() and place.is_trained()
        for kind in (results.TRAINING, *place.done_evaluations())
    }  # fmt: skip


def _planned(chosen: list[Place]) -> set[results.Part]:
    return {(place.id, kind) for place in chosen for kind in (results.TRAINING, *place.run.evaluations)}


def _check_nothing_is_lost(study: Study, parts: set[results.Part], out: Path) -> None:
    """Raises ``ConfigError`` where ``out`` has figures that are not among these ``parts``."""
    lost = ", ".join(f"{place} ({kind})" for place, kind in sorted(results.recorded(out, study) - parts))
    require(not lost, "--out", str(out), f"a folder without figures of {lost}, which WORK does not have; "
            "make all of the study, or name another folder", error=ConfigError)  # fmt: skip


def prepared(study: Study, data: Path, datasets: Path) -> Path:
    """The folder of the study's dataset, which is prepared if it is missing. Raises ``DataError`` when that fails."""
    dataset = datasets / study.dataset
    datasets.mkdir(parents=True, exist_ok=True)
    with (datasets / f".{study.dataset}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another study of the same log may be preparing it
        if (dataset / SEQUENCES).is_dir():
            return dataset
        say(f"preparing {study.dataset}")
        arguments = ["prepare", "--preset", study.dataset, "--data", str(data), "--out", str(dataset), "--overwrite"]
        done = subprocess.run([*pinrec_command(), *arguments], stdout=sys.stderr, check=False)
    if done.returncode:
        raise DataError(f"pinrec {' '.join(arguments)} ended with status {done.returncode}: expected 0")
    return dataset


def _pieces(study: Study, given: str, places: list[Place], dataset: Path, work: Path, device: str) -> list[Piece]:
    """The work that is left: trainings with their evaluations, and evaluations that measure time on their own."""
    pieces = []
    training = {place.id for place in places if not place.is_trained()}
    for place in places:
        train = place.id in training
        missing = place.missing_evaluations()
        kinds = [kind for kind in missing if kind != TIMED]
        if train or kinds:
            job = new_job(given, place, work=work, dataset=dataset, device=device, train=train, evaluations=kinds)
            pieces.append(
                Piece(
                    id=place.id, kind="training" if train else "evaluation", job=job, log=place.log,
                    units=place.run.epochs if train else len(kinds), after=_sources(place, work) & training,
                )
            )  # fmt: skip
        if TIMED in missing:
            job = new_job(given, place, work=work, dataset=dataset, device=device, train=False, evaluations=[TIMED])
            pieces.append(
                Piece(
                    id=f"{place.id} {TIMED}", kind=TIMED, units=1, job=job, log=place.log, alone=True,
                    after=frozenset({place.id} & {piece.id for piece in pieces}),
                )
            )  # fmt: skip
    return pieces


def _sources(place: Place, work: Path) -> frozenset[str]:
    """The trainings that must be finished before this one, because it starts from their ID tables."""
    study, run = place.study, place.run
    if run.id_tables is None:
        return frozenset()
    seed = study.pretraining_seed(run, place.seed)
    return frozenset({place_of(study, study.runs[run.id_tables], seed, work).id})


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    ending.run(app, "error")
