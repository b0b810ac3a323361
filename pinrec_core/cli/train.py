"""``pinrec train``: a prepared dataset to a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pinrec_core.config import PRESETS, Variant


def train(
    dataset: Annotated[Path, typer.Argument(help="A dataset made by `pinrec prepare`.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the run, e.g. runs/ml100k.", show_default=False)],
    preset: Annotated[str, typer.Option(help=f"Size: {', '.join(PRESETS)}.")] = "small",
    variant: Annotated[
        Variant, typer.Option(help="Conditioning of the head: nothing, outcome, time offset, or both.")
    ] = Variant.MT_OC,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training users; the preset's by default.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of weights, sampling and order; the preset's by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:1 …")] = "cpu",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change one setting, e.g. --set objective.window=8 --set model.layers=6. Repeatable."
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the run's metrics as one JSON document.")] = False,
) -> None:
    """Train a model on a prepared dataset.

    Users are split by a hash of their id: a tenth is held out for `pinrec evaluate` and never trained on.

    Example: pinrec train data/ml100k --out runs/ml100k --preset tiny
    """
    from rich.progress import TextColumn

    from pinrec_core.cli.console import print_json, progress, stderr
    from pinrec_core.config import preset as preset_named
    from pinrec_core.config import with_changes
    from pinrec_core.dataset import DatasetManifest
    from pinrec_core.settings import apply_settings
    from pinrec_core.training import Progress
    from pinrec_core.training import train as run_training

    chosen = apply_settings(preset_named(preset), set_ or [])
    manifest = DatasetManifest.load(dataset)
    model_config = chosen.model_for(
        variant=variant,
        num_outcomes=len(manifest.outcomes),
        num_surfaces=len(manifest.surfaces),
        feature_width=manifest.feature_width,
    )
    given = {name: value for name, value in {"seed": seed, "epochs": epochs}.items() if value is not None}
    training_config = with_changes(chosen.training, given)

    with progress(TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:,.0f} interactions/s")) as bar:
        finished = [0]
        task = bar.add_task("training", total=1.0, loss=float("nan"), rate=0.0)

        def report(step: Progress) -> None:
            elapsed = bar.tasks[task].elapsed or 0.0
            if not stderr.is_terminal and step.epoch > finished[-1]:  # a bar says nothing in a log file
                finished.append(step.epoch)
                stderr.print(f"epoch {step.epoch}/{training_config.epochs}  loss {step.loss:.3f}  {elapsed:,.0f} s")
            bar.update(
                task,
                completed=step.share,
                description=f"epoch {step.epoch + 1}/{training_config.epochs}",
                loss=step.loss,
                rate=step.interactions / max(elapsed, 1e-9),
            )

        run = run_training(
            dataset, out, model_config=model_config, objective_config=chosen.objective,
            training_config=training_config, device=device, report=report,
        )  # fmt: skip
    if json_:
        print_json(run.metrics | {"run": str(out)})
    else:
        stderr.print(
            f"run written to {out}; next: pinrec evaluate {out}, pinrec release {out} --releases releases",
            soft_wrap=True,
        )
