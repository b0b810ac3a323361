"""``pinrec release prune`` removes old releases."""

from __future__ import annotations

from typing import Annotated

import typer

from pinrec_cli.release.options import RELEASES, Json, Releases


def prune(
    keep: Annotated[int, typer.Option(min=1, help="Number of newest releases that stay.", show_default=False)],
    releases: Releases = RELEASES,
    older_than: Annotated[
        float | None,
        typer.Option(min=0.0, help="Remove only releases that are this many days old.", show_default="of any age"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    json_: Json = False,
) -> None:
    """Remove old releases, what was compiled for them, and what killed commands left unfinished.

    Whatever the rule says, these stay: the current release, the one that a rollback leads to, those that a `pinrec
    serve` of this machine has loaded, and folders that are no release of this version.

    pinrec release prune --releases releases --keep 5 --older-than 30 --dry-run
    """
    import datetime

    from pinrec_cli.console import print_json, stdout
    from pinrec_core.release import pruning

    age = None if older_than is None else datetime.timedelta(days=older_than)
    if dry_run:
        plan = pruning.plan_pruning(releases, keep=keep, older_than=age)
    else:
        plan = pruning.prune(releases, keep=keep, older_than=age)
    removed = [str(folder.relative_to(releases)) for folder in plan.folders]
    if json_:
        print_json({"removed": removed, "kept": plan.kept, "bytes": plan.bytes, "dry_run": dry_run})
        return
    for folder in removed:
        stdout.print(f"{'would remove' if dry_run else 'removed'} {folder}", soft_wrap=True, markup=False)
    for release_id, reason in plan.kept.items():
        stdout.print(f"kept {release_id}: {reason}", soft_wrap=True, markup=False)
    stdout.print(f"{plan.bytes / 2**20:,.1f} MiB in {len(removed)} folders")
