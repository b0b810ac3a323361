"""``pinrec release``: a training run to a published release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pinrec_core.cli.generation_options import Embeddings, Offsets, parse_offsets


def release(
    run: Annotated[Path, typer.Argument(help="A run folder made by `pinrec train`.", show_default=False)],
    releases: Annotated[Path, typer.Option(help="Folder that holds the releases.")] = Path("releases"),
    dataset: Annotated[
        Path | None, typer.Option(help="Prepared dataset, where it moved since training.", show_default=False)
    ] = None,
    make_current: Annotated[
        bool, typer.Option(help="Point releases/current at it, so that `pinrec serve` takes it.")
    ] = True,
    embeddings: Embeddings = None,
    offsets: Offsets = None,
    evaluate: Annotated[bool, typer.Option(help="Evaluate first and record the figures in the release.")] = True,
    targets: Annotated[int, typer.Option(help="Z: items per held-out user to be recalled.")] = 8,
    device: Annotated[str, typer.Option(help="Torch device of the model: cpu, cuda, cuda:1 …")] = "cpu",
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Freeze a run into a release: weights, ID embedder, index, catalogue, vocabularies, checksums.

    The release is written beside and renamed into place; a failure leaves nothing behind.

    pinrec release runs/ml100k --releases releases

    What is served is what was evaluated with the same options:
    pinrec release runs/ml100k --embeddings 12 --offsets 1,3
    """
    import datetime

    from pinrec_core.cli.console import print_json, progress, stderr, stdout
    from pinrec_core.cli.evaluation_tables import metrics_table
    from pinrec_core.evaluation.setting import HELD_OUT_LAST_KEY, Setting, judge, open_run
    from pinrec_core.publishing import publish
    from pinrec_core.release import EVALUATION_SHARE_KEY
    from pinrec_core.training import Run

    setting = Setting.for_subjects([str(run)], dataset=dataset, targets=targets, max_users=2000)
    with stderr.status("indexing and calibrating"):
        subject = open_run(str(run), setting, embeddings=embeddings, offsets=parse_offsets(offsets), device=device)
    result = None
    if evaluate and any(True for _ in setting.cases(subject.catalogue)):
        with progress(count=True) as bar:
            task = bar.add_task("evaluating users", total=None)
            result = judge(subject, setting, report=lambda done: bar.advance(task, done))
    training = Run.load(run).training
    split = {EVALUATION_SHARE_KEY: training.evaluation_share, HELD_OUT_LAST_KEY: training.held_out_last}
    with stderr.status("publishing") as status:
        published = publish(
            subject.indexed,
            dataset=setting.dataset,
            releases=releases,
            metrics=split | (result.metrics if result else {}),
            now=datetime.datetime.now(datetime.UTC),
            make_current=make_current,
            report=lambda what: status.update(f"publishing: {what}"),
        )
    if json_:
        print_json({"release": published.manifest.release_id, "folder": str(published.folder)})
        return
    if result:
        stdout.print(metrics_table([result], setting))
    stdout.print(f"release {published.manifest.release_id} in {published.folder}", soft_wrap=True)
    stderr.print(f"next: pinrec serve --releases {releases} --signals {setting.dataset}/signals", soft_wrap=True)
