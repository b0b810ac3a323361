"""``pinrec prepare`` makes a prepared dataset, with its batch signals, of an event log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from pinrec_core.preparation.reader import Progress
    from pinrec_core.preparation.report import PrepareReport
    from pinrec_core.preparation.schema import DatasetSpec


def prepare(
    out: Annotated[Path, typer.Option(help="Folder of the prepared dataset, e.g. data/ml100k.", show_default=False)],
    preset: Annotated[
        str | None,
        typer.Option(help="Mapping shipped with PinRec, e.g. ml100k, yelp, trivago; needs --data.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Your own mapping, a TOML file (docs/data.md); instead of --preset.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the log, or the folder above a preset's own; by default the folder of --config.",
            show_default=False,
        ),
    ] = None,
    master: Annotated[str, typer.Option(help="Spark master, e.g. local[4] or spark://host:7077.")] = "local[*]",
    end_time: Annotated[
        int | None,
        typer.Option(help="Batch end, Unix seconds, exclusive; by default just behind the last event before now."),
    ] = None,
    skip_signals: Annotated[
        bool, typer.Option("--skip-signals", help="Stop before Spark: no sequences, no batch view.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the dataset at --out.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the report as one JSON document.")] = False,
) -> None:
    """Validate an event log, encode its items and build per-user sequences.

    Rows that cannot be used are set aside in quarantine.parquet with file, row and reason; report.json counts them.

    Example: pinrec prepare --preset ml100k --data ../shared/data --out data/ml100k
    """
    import time
    from dataclasses import asdict
    from functools import partial

    from pinrec_cli.console import phase_progress, print_json, stderr, stdout
    from pinrec_core.errors import require
    from pinrec_core.preparation.prepare import prepare_dataset

    now = int(time.time())
    require(end_time is None or end_time <= now, "--end-time", end_time,
            f"at most {now} (now): events before it are not looked for in the real-time store")  # fmt: skip
    spec, folder = _choose(preset, config, data)
    if not skip_signals:
        from signal_service.spark_session import check_spark

        check_spark(master)  # checked before the log is read, because reading it may take hours
    with phase_progress() as advance:
        report = prepare_dataset(
            spec, folder, out, now=now, overwrite=overwrite, progress=advance,
            add_signals=None if skip_signals else partial(_build_signals, master, end_time, advance),
        )  # fmt: skip
    if report.events_ahead:
        stderr.print(
            f"warning: {report.events_ahead:,} events are dated after now; they are kept in the event files and left "
            "out of the batch. Check the clocks of whatever wrote the log",
            soft_wrap=True,
        )
    if json_:
        print_json(asdict(report) | {"dataset": str(out)})
        return
    stdout.print(_summary(report))
    if report.quarantine:
        stdout.print(_quarantine_table(report))
        stderr.print(f"every row set aside is in {out / 'quarantine.parquet'}")
    if skip_signals:
        stderr.print(f"dataset written to {out}; to train on it, prepare it without --skip-signals")
    else:
        stderr.print(f"dataset written to {out}; next: pinrec train {out} --out runs/{out.name}")


def _choose(preset: str | None, config: Path | None, data: Path | None) -> tuple[DatasetSpec, Path]:
    """The mapping and the folder of the log. Raises ``ConfigError``."""
    from pinrec_core.errors import ConfigError
    from pinrec_core.preparation.schema import load_preset, load_spec, preset_names

    if preset is not None and config is None:
        if data is None:
            raise ConfigError(f"--data: expected the folder of the log that preset {preset!r} describes")
        spec = load_preset(preset)
        return spec, next((data / alias for alias in spec.aliases if (data / alias).is_dir()), data)
    if config is not None and preset is None:
        return load_spec(config), data or config.parent
    raise ConfigError(f"expected one of --config FILE and --preset NAME, where NAME is one of {list(preset_names())}")


def _build_signals(master: str, end_time: int | None, progress: Progress, dataset: Path) -> None:
    """Publish the first snapshot of the dataset's histories."""
    import datetime

    from signal_service.publishing import publish_batch

    publish_batch(dataset, now=datetime.datetime.now(datetime.UTC), master=master, end_time=end_time, progress=progress)


def _summary(report: PrepareReport) -> Table:
    from rich.table import Table

    table = Table(title=f"prepared {report.name} in {report.seconds:.1f} s", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rows = {
        "rows read": report.rows_read,
        "valid events": report.valid_events,
        "set aside": report.quarantined_events,
        "repeats collapsed": report.collapsed_events,
        "users": report.num_users,
        "items": report.num_items,
        "query events": report.query_events,
        "distinct queries": report.num_queries,
        **{f"  {action}": count for action, count in report.events_by_action.items()},
        "surfaces": report.surfaces,
    }
    if report.events_ahead:
        rows["dated after now, not in the batch"] = report.events_ahead
    if report.quarantined_items:
        rows["items set aside"] = report.quarantined_items
    if report.surfaces_left_out:
        rows["surfaces beyond the cap"] = report.surfaces_left_out
        rows["  their events, kept as unknown"] = report.unlisted_surface_events
    for name, count in rows.items():
        table.add_row(name, f"{count:,}")
    table.add_row("user ids, item ids", f"{report.user_id_kind}, {report.item_id_kind}")
    return table


def _quarantine_table(report: PrepareReport) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="set aside")
    table.add_column("file", overflow="fold")
    table.add_column("reason", no_wrap=True)
    for name in ("rows", "first at row"):
        table.add_column(name, justify="right")
    table.add_column("field", no_wrap=True)
    table.add_column("value", no_wrap=True, overflow="ellipsis", max_width=16)
    for entry in report.quarantine:
        value = "" if entry.first_value is None else repr(entry.first_value)
        cells = (entry.file, entry.reason, f"{entry.rows:,}", str(entry.first_row), entry.first_field, value)
        table.add_row(*map(Text, cells))
    return table
