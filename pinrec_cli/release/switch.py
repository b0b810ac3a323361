"""``pinrec release publish`` and ``rollback``: which release is current."""

from __future__ import annotations

from typing import Annotated

import typer

from pinrec_cli.release.options import RELEASES, Json, ReleaseName, Releases


def publish(
    release: ReleaseName,
    releases: Releases = RELEASES,
    tolerance: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Share by which its figures may be below those of the current release."),
    ] = 0.05,
    accept_worse: Annotated[
        bool, typer.Option("--accept-worse", help="Publish it whatever its figures are beside the current one's.")
    ] = False,
    accept_recall: Annotated[
        bool, typer.Option("--accept-recall", help="Publish an index whose recall is below the target, too.")
    ] = False,
    json_: Json = False,
) -> None:
    """Check a release that was made before, here or on another machine, and make it the current one.

    Checked are this machine (format, torch, memory, readable files), every checksum, that the parts belong together,
    the recall of the index, the figures beside those of the current release, and answers to made-up requests. Where one
    fails, the current release stays. A running `pinrec serve` takes the new one on SIGHUP.

    pinrec release publish 20260101T120000-1a2b3c4d --releases releases && kill -HUP PID
    """
    from pinrec_cli.console import print_json, stderr, stdout, steps_progress
    from pinrec_core.release.current import current_id
    from pinrec_core.release.inventory import find_release
    from pinrec_core.release.switching import publish_existing

    before, folder = current_id(releases), find_release(release, releases)
    with steps_progress("checking") as report:
        remarks = publish_existing(
            folder, releases, tolerance=tolerance, accept_recall=accept_recall, accept_worse=accept_worse,
            report=report,
        )  # fmt: skip
    if json_:
        print_json({"release": folder.name, "before": before, "remarks": remarks})
        return
    for remark in remarks:
        stdout.print(remark, soft_wrap=True, markup=False)
    stdout.print(f"current: {folder.name}" + (f", before: {before}" if before else ""), soft_wrap=True)
    stderr.print(f"next: kill -HUP PID; back again: pinrec release rollback --releases {releases}", soft_wrap=True)


def rollback(
    releases: Releases = RELEASES,
    to: Annotated[
        str | None,
        typer.Option(help="Id of the release to go back to.", show_default="the one that was current before"),
    ] = None,
    json_: Json = False,
) -> None:
    """Make the release current again that was current before.

    Its checksums are compared first; where it is gone or damaged, nothing changes. Two rollbacks go back two releases.
    RELEASES/history.jsonl has a line for each change: when, from which release, to which, by which command.

    pinrec release rollback --releases releases && kill -HUP PID
    """
    from pinrec_cli.console import print_json, stderr, stdout
    from pinrec_core.release.switching import roll_back

    before, now = roll_back(releases, to)
    if json_:
        print_json({"release": now, "before": before})
        return
    stdout.print(f"current: {now}, before: {before or 'none'}", soft_wrap=True)
    stderr.print("next: kill -HUP PID, of `pinrec serve`", soft_wrap=True)
