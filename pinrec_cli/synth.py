"""``pinrec synth`` writes a believable event log, for people without one of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def synth(
    out: Annotated[Path, typer.Option(help="Folder of the log, e.g. data/synthetic.", show_default=False)],
    users: Annotated[int, typer.Option(help="Users, each with at least one event.")] = 2000,
    items: Annotated[int, typer.Option(help="Items of the catalogue.")] = 5000,
    events: Annotated[int, typer.Option(help="Rows of the log, queries included.")] = 200_000,
    seed: Annotated[int, typer.Option(help="The same seed and sizes give the same log.")] = 0,
    queries: Annotated[bool, typer.Option("--queries/--no-queries", help="Whether users search as well.")] = True,
    string_ids: Annotated[
        bool, typer.Option("--string-ids", help="Ids such as user-0000042 instead of integers.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the synthetic log at --out.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print what was written as one JSON document.")] = False,
) -> None:
    """Write a synthetic log: drifting interests, sessions, surfaces, searches, outcomes that prefer different items.

    Memory does not grow with the number of events.

    Example: pinrec synth --events 200000 --out data/synthetic && pinrec prepare --config data/synthetic/dataset.toml
    --out data/synthetic-prepared
    """
    from dataclasses import asdict

    from pinrec_cli.console import phase_progress, print_json, stderr
    from pinrec_core.simulation.latent_world import WorldConfig
    from pinrec_core.simulation.synthetic_log import write_synthetic_log

    config = WorldConfig(users=users, items=items, events=events, seed=seed, queries=queries)
    with phase_progress() as advance:
        report = write_synthetic_log(config, out, string_ids=string_ids, overwrite=overwrite, progress=advance)
    if json_:
        print_json(asdict(report) | {"log": str(out), "events_per_second": round(report.events_per_second)})
    else:
        stderr.print(
            f"{report.events:,} events ({report.queries:,} queries) of {report.users:,} users written to {out} "
            f"in {report.seconds:.1f} s ({report.events_per_second:,.0f} events/s); "
            f"next: pinrec prepare --config {out / 'dataset.toml'} --out {out}-prepared"
        )
