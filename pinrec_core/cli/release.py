"""``pinrec release``: a training run to a published release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def release(
    run: Annotated[Path, typer.Argument(help="A run folder made by `pinrec train`.", show_default=False)],
    releases: Annotated[Path, typer.Option(help="Folder that holds the releases.")] = Path("releases"),
    dataset: Annotated[
        Path | None, typer.Option(help="Prepared dataset, where it moved since training.", show_default=False)
    ] = None,
    make_current: Annotated[
        bool, typer.Option(help="Point releases/current at it, so that `pinrec serve` takes it.")
    ] = True,
    evaluate: Annotated[bool, typer.Option(help="Evaluate first and record the figures in the release.")] = True,
    targets: Annotated[int, typer.Option(help="Z: items per held-out user to be recalled.")] = 8,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Freeze a run into a release: weights, ID embedder, index, catalogue, vocabularies, checksums.

    The release is written beside and renamed into place; a failure leaves nothing behind.

    Example: pinrec release runs/ml100k --releases releases
    """
    import datetime

    from pinrec_core.cli.console import print_json, stderr, stdout
    from pinrec_core.cli.evaluate import index_run, report_table, run_evaluation
    from pinrec_core.publishing import publish
    from pinrec_core.release import EVALUATION_SHARE_KEY
    from pinrec_core.training import Run

    trained = Run.load(run)
    folder = dataset or trained.dataset
    serving, cases, popularity = index_run(trained, folder, targets, max_users=2000)
    report = run_evaluation(serving, cases, popularity, k=10) if evaluate and cases else None
    with stderr.status("publishing") as status:
        published = publish(
            serving,
            dataset=folder,
            releases=releases,
            metrics={EVALUATION_SHARE_KEY: trained.training.evaluation_share} | (report.to_dict() if report else {}),
            now=datetime.datetime.now(datetime.UTC),
            make_current=make_current,
            report=lambda what: status.update(f"publishing: {what}"),
        )
    if json_:
        print_json({"release": published.manifest.release_id, "folder": str(published.folder)})
        return
    if report:
        stdout.print(report_table(report))
    stdout.print(f"release {published.manifest.release_id} in {published.folder}", soft_wrap=True)
    stderr.print(f"next: pinrec serve --releases {releases} --signals {folder}/signals", soft_wrap=True)
