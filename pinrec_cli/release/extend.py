"""``pinrec release extend`` makes a release of new items without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pinrec_cli.release.options import RELEASES, Json, ReleaseName, Releases


def extend(
    release: ReleaseName,
    dataset: Annotated[
        Path, typer.Option(help="A prepared dataset that is newer than the release's.", show_default=False)
    ],
    releases: Releases = RELEASES,
    make_current: Annotated[bool, typer.Option(help="Point releases/current at it.")] = True,
    accept_recall: Annotated[
        bool, typer.Option("--accept-recall", help="Publish an index whose recall is below the target, too.")
    ] = False,
    evaluate: Annotated[bool, typer.Option(help="Evaluate first and record the figures in the release.")] = True,
    targets: Annotated[int, typer.Option(help="Z: target items per held-out user, as for `pinrec release make`.")] = 8,
    json_: Json = False,
) -> None:
    """Make a release with the model of an earlier one and the catalogue of a newer dataset, without training.

    New items can be recommended at once and items that are no longer in the dataset vanish; what the model makes of a
    user stays the same. A new item is known by its content; its ID embedding is that of the hashed tables' rows which
    its id selects. The index is calibrated again. The dataset has to be prepared from the same mapping: its outcomes,
    surfaces, ids and content features have to be those that the model was trained with.

    pinrec prepare --config log/dataset.toml --out data/today

    pinrec release extend 20260101T120000-1a2b3c4d --dataset data/today --releases releases
    """
    import datetime

    from pinrec_cli.console import print_json, stderr, stdout, steps_progress
    from pinrec_cli.evaluation_progress import users_progress
    from pinrec_cli.evaluation_tables import metrics_table
    from pinrec_cli.release.next_steps import print_next
    from pinrec_core.evaluation.judging import NoCasesError, judge
    from pinrec_core.evaluation.opening import calibration_warning, open_extended, task_for_release
    from pinrec_core.release.extending import changed_items
    from pinrec_core.release.extending import extend as write
    from pinrec_core.release.format import Release
    from pinrec_core.release.in_use import using_release
    from pinrec_core.release.inventory import find_release
    from pinrec_core.release.publishing import check_recall

    folder = find_release(release, releases)
    with using_release(folder):  # so that nothing removes it meanwhile
        base = Release.open(folder)
        task = task_for_release(base.manifest.training, dataset, targets=targets, max_users=2000)
        with steps_progress("preparing") as report:
            subject = open_extended(base, task, report=report)
        if not accept_recall:
            check_recall(subject.indexed.calibration)  # before the evaluation, which takes longest
        if warning := calibration_warning(subject.indexed.calibration.calibrated_on):
            stderr.print(f"warning: {warning}", soft_wrap=True)
        results = []
        if evaluate:
            try:
                with users_progress() as begin:
                    progress = begin(f"evaluating users, {subject.name}", task.max_users)
                    results.append(judge(subject, task, report=progress))
            except NoCasesError as error:
                stderr.print(f"warning: the release holds no figures: {error}", soft_wrap=True)
        metrics = {"protocol": results[0].protocol} | results[0].metrics if results else {}
        with steps_progress("publishing") as report:
            made = write(
                base, subject.indexed, dataset=dataset, releases=releases, metrics=metrics,
                now=datetime.datetime.now(datetime.UTC), make_current=make_current, accept_recall=accept_recall,
                report=report,
            )  # fmt: skip
        new, gone = changed_items(base, made)
    release_id = made.manifest.release_id
    if json_:
        document = {"release": release_id, "folder": str(made.folder), "extends": made.manifest.extends}
        print_json(document | {"new_items": new, "gone_items": gone})
        return
    if results:
        stdout.print(metrics_table(results, task))
    stdout.print(f"release {release_id} in {made.folder}: {new:,} items are new, {gone:,} are gone", soft_wrap=True)
    print_next(release_id, releases=releases, dataset=dataset, current=make_current)
