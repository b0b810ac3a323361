"""``pinrec train`` turns a prepared dataset into a training run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pinrec_core.config.presets import PRESETS
from pinrec_core.config.sections import Variant

if TYPE_CHECKING:
    from pinrec_core.training.metrics import EpochMetrics, Progress

LINE_SECONDS = 60.0


def train(
    dataset: Annotated[Path, typer.Argument(help="A dataset made by `pinrec prepare`.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the run, e.g. runs/ml100k.", show_default=False)],
    preset: Annotated[str, typer.Option(help=f"Size: {', '.join(PRESETS)}.")] = "small",
    variant: Annotated[
        Variant, typer.Option(help="Conditioning of the head (nothing, outcome, time offset, both), or a baseline.")
    ] = Variant.MT_OC,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training users; by default the preset's.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of weights, sampling and order; by default the preset's.")
    ] = None,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:1 …")] = "cpu",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="SECTION.KEY=VALUE of model, objective or training, e.g. --set objective.window=8 --set "
            "model.layers=6; all keys and what they mean: pinrec_core/config/sections.py. Repeatable.",
        ),
    ] = None,
    id_tables: Annotated[
        Path | None,
        typer.Option(help="A run whose ID tables the model starts from, usually one of --variant dot_product."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew and discard the run in --out, finished or not.")
    ] = False,
    checkpoint_seconds: Annotated[
        float, typer.Option(help="Seconds between checkpoints; one more is written after each epoch.", min=0)
    ] = 300.0,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard curves, e.g. runs/ml100k/tensorboard.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the run's metrics as one JSON document.")] = False,
) -> None:
    """Train a model on a prepared dataset.

    Users are split by a hash of their id. A tenth of them (training.evaluation_share) is never trained on: three
    quarters of these are for `pinrec evaluate`, and one quarter for choosing settings. A run that was killed goes on
    from its last checkpoint when the same command is given again; with --overwrite it starts anew. Ctrl-C leaves a
    checkpoint.

    Example: pinrec train data/ml100k --out runs/ml100k --preset tiny

    Training in two stages, ID tables first:
    pinrec train data/ml100k --out runs/ids --variant dot_product --set training.id_learning_rate=0.01
    pinrec train data/ml100k --out runs/ml100k --id-tables runs/ids --set training.id_learning_rate=3e-4

    Several processes, each with its share of the users:
    torchrun --nproc-per-node 8 --no-python pinrec train data/ml100k --out runs/ml100k --device cuda
    """
    from dataclasses import replace

    from rich.progress import TextColumn

    from pinrec_cli.console import print_json, progress, stderr
    from pinrec_core.config.presets import preset as preset_named
    from pinrec_core.config.settings import apply_settings
    from pinrec_core.dataset.manifest import DatasetManifest
    from pinrec_core.training.processes import is_first_process
    from pinrec_core.training.start import train as run_training

    chosen = apply_settings(preset_named(preset), set_ or [])
    manifest = DatasetManifest.load(dataset)
    model_config = chosen.model_for(
        variant=variant,
        num_outcomes=len(manifest.outcomes),
        num_surfaces=len(manifest.surfaces),
        feature_width=manifest.feature_width,
    )
    given: dict[str, Any] = {"seed": seed, "epochs": epochs}
    changes = {name: value for name, value in given.items() if value is not None}
    training_config = replace(chosen.training, **changes)
    first = is_first_process()

    def announce(line: str) -> None:
        if first:
            stderr.print(line, soft_wrap=True)

    columns = "loss {task.fields[loss]}  held-out {task.fields[held_out]}  {task.fields[rate]} interactions/s"
    bar = progress(TextColumn(columns + "  MFU {task.fields[mfu]}"))
    bar.disable = not (first and stderr.is_terminal)  # a bar is unreadable in a log file, which gets lines instead
    task = bar.add_task("training", total=1.0, loss="–", held_out="–", rate="–", mfu="–")
    lines = _Lines(training_config.epochs, announce)

    def report(now: Progress) -> None:
        if not stderr.is_terminal:
            lines.report(now)
        bar.start()  # with the first step, so that a refused command shows no bar
        bar.update(
            task,
            completed=now.share,
            description=f"epoch {now.epoch + 1}/{training_config.epochs}",
            loss=f"{now.loss:.3f}",
            held_out=_optional(now.epochs[-1].held_out_loss if now.epochs else None),
            rate=f"{now.interactions_per_second:,.0f}",
            mfu=f"{now.mfu:.0%}",
        )

    try:
        run = run_training(
            dataset, out, model_config=model_config, objective_config=chosen.objective,
            training_config=training_config, device=device, id_tables=id_tables, overwrite=overwrite,
            checkpoint_seconds=checkpoint_seconds, tensorboard=tensorboard, report=report, announce=announce,
        )  # fmt: skip
    finally:
        bar.live.stop()
    if not first:
        return
    if json_:
        print_json(run.metrics | {"run": str(out)})
    else:
        announce(f"run written to {out}; next: {_next_command(variant, dataset, out)}")


class _Lines:
    """Progress for a log file: one line for every epoch, and about one a minute in between."""

    def __init__(self, epochs: int, announce: Callable[[str], None]) -> None:
        self._epochs, self._announce = epochs, announce
        self._printed, self._last = 0, time.monotonic()

    def report(self, now: Progress) -> None:
        if len(now.epochs) > self._printed:
            self._printed = len(now.epochs)
            self._print(_epoch_line(now.epochs[-1], self._epochs))
        elif time.monotonic() - self._last >= LINE_SECONDS:
            self._print(
                f"epoch {now.epoch + 1}/{self._epochs}  {now.share:.0%} of the run  loss {now.loss:.3f}  "
                f"{now.interactions_per_second:,.0f} interactions/s  MFU {now.mfu:.1%}"
            )

    def _print(self, line: str) -> None:
        self._announce(line)
        self._last = time.monotonic()


def _epoch_line(epoch: EpochMetrics, epochs: int) -> str:
    return (
        f"epoch {epoch.epoch}/{epochs}  loss {epoch.loss:.3f}  held-out {_optional(epoch.held_out_loss)}  "
        f"{epoch.interactions_per_second:,.0f} interactions/s  MFU {epoch.mfu:.1%}  {epoch.seconds:,.0f} s"
    )


def _next_command(variant: Variant, dataset: Path, out: Path) -> str:
    if variant is Variant.DOT_PRODUCT:  # such a run holds ID tables only, which another training starts from
        return f"pinrec train {dataset} --out RUN --id-tables {out}"
    return f"pinrec evaluate {out}, pinrec release {out} --releases releases"


def _optional(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.3f}"
