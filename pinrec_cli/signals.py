"""``pinrec signals``: publish a batch of histories, take it back, and manage its snapshots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from signal_service.snapshots import ListedSnapshot

app = typer.Typer(
    name="signals",
    no_args_is_help=True,
    help="""Publish the batch histories of a dataset as snapshots, go back to an earlier one, and remove old ones.

    A running `pinrec serve` takes the current snapshot by itself, without a restart.

    pinrec signals publish data/ml100k

    pinrec signals list data/ml100k

    pinrec signals rollback data/ml100k
    """,
)

Dataset = Annotated[
    Path, typer.Argument(help="A prepared dataset, or its folder `signals`, e.g. data/ml100k.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def publish(
    dataset: Annotated[Path, typer.Argument(help="A prepared dataset, e.g. data/ml100k.", show_default=False)],
    master: Annotated[str, typer.Option(help="Spark master, e.g. local[4] or spark://host:7077.")] = "local[*]",
    end_time: Annotated[
        int | None,
        typer.Option(help="Batch end, Unix seconds, exclusive; by default just behind the last event before now."),
    ] = None,
    lookback_days: Annotated[
        int | None, typer.Option(min=1, help="How many days before the end histories begin; default: no limit.")
    ] = None,
    max_interactions: Annotated[int, typer.Option(min=1, help="The newest this many of a user are kept.")] = 2048,
    driver_memory: Annotated[str, typer.Option(help="Heap of the local Java process.")] = "2g",
    full: Annotated[
        bool, typer.Option("--full", help="Read all events, where the job could go on from the current snapshot.")
    ] = False,
    realtime: Annotated[
        str | None,
        typer.Option(
            help="Real-time store, a folder or redis://host:port/0, whose forgotten users are left out. "
            "By default DATASET/signals/realtime, if there is one.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(min=1, help="Then remove all but this many of the newest snapshots.", show_default="remove none"),
    ] = None,
    json_: Json = False,
) -> None:
    """Build the histories of a dataset's events with Spark, and make them the current snapshot.

    Until the new snapshot is whole and on the disk the current one stays; it stays when anything fails or this command
    is killed.

    pinrec signals publish data/ml100k --lookback-days 365 --keep 7

    pinrec signals publish data/shop --master spark://host:7077 --driver-memory 8g
    """
    import datetime
    import time

    from pinrec_cli.console import phase_progress, print_json, stderr, stdout
    from pinrec_core.errors import require
    from pinrec_core.store_location import store_location
    from signal_service import publishing, snapshot_changes
    from signal_service.event_stores import forgotten_users
    from signal_service.spark_session import check_spark

    now = int(time.time())
    require(end_time is None or end_time <= now, "--end-time", end_time,
            f"at most {now} (now): events before it are not looked for in the real-time store")  # fmt: skip
    check_spark(master)
    beside = dataset / "signals" / "realtime"
    store = store_location(realtime) if realtime else beside if beside.exists() else None
    with phase_progress() as advance:
        snapshot = publishing.publish_batch(
            dataset, now=datetime.datetime.now(datetime.UTC), master=master, end_time=end_time,
            lookback_days=lookback_days, max_interactions_per_user=max_interactions, driver_memory=driver_memory,
            forgotten={} if store is None else forgotten_users(store), incremental=not full, progress=advance,
        )  # fmt: skip
    pruned = None if keep is None else snapshot_changes.prune(dataset / "signals", keep=keep)
    removed = [] if pruned is None else pruned.removed
    if json_:
        print_json({"snapshot": snapshot.name, "before": snapshot.replaces, "parent": snapshot.parent,
                    "users": snapshot.num_users, "interactions": snapshot.num_interactions,
                    "bytes": snapshot.bytes, "removed": removed})  # fmt: skip
        return
    before = f", before: {snapshot.replaces}" if snapshot.replaces else ""
    stdout.print(f"current: {snapshot.name}{before}", soft_wrap=True, markup=False)
    stdout.print(f"{snapshot.num_users:,} users, {snapshot.num_interactions:,} interactions, {_mib(snapshot.bytes)}")
    for name in removed:
        stdout.print(f"removed {name}", markup=False)
    stderr.print(f"back again: pinrec signals rollback {dataset}", soft_wrap=True)


@app.command("list")
def list_(dataset: Dataset, json_: Json = False) -> None:
    """List the snapshots, newest first: which one is current, what they hold, and what is damaged.

    pinrec signals list data/ml100k

    pinrec signals list data/ml100k --json | jq '.snapshots[] | select(.current).snapshot'
    """
    from pinrec_cli.console import print_json, stdout
    from signal_service.snapshots import current_name, list_snapshots

    signals = _signals(dataset)
    listed, current = list_snapshots(signals), current_name(signals)
    if json_:
        print_json({"current": current, "snapshots": [_described(one) for one in listed]})
        return
    stdout.print(_table(listed, signals))
    for one in listed:
        if one.problem:
            stdout.print(one.problem, soft_wrap=True, markup=False)
    if not any(one.current for one in listed):
        what = "no snapshot is current" if current is None else f"the current snapshot is {current}, which is not here"
        stdout.print(what, soft_wrap=True, markup=False)


@app.command()
def rollback(
    dataset: Dataset,
    to: Annotated[
        str | None,
        typer.Option(help="Name of a snapshot, an older or a newer one.", show_default="the one that was replaced"),
    ] = None,
    json_: Json = False,
) -> None:
    """Make the snapshot current again that the current one replaced, or another one by its name.

    The sizes of its files are checked first; where it is gone or damaged, nothing changes. This works while the next
    batch is being built. Two rollbacks go back two snapshots.

    pinrec signals rollback data/ml100k

    pinrec signals rollback data/ml100k --to 20261127T000000-1
    """
    from pinrec_cli.console import print_json, stdout
    from signal_service.snapshot_changes import rollback as roll_back

    before, now = roll_back(_signals(dataset), to)
    if json_:
        print_json({"snapshot": now.name, "before": before})
        return
    stdout.print(f"current: {now.name}, before: {before}", soft_wrap=True, markup=False)


@app.command()
def prune(
    dataset: Dataset,
    keep: Annotated[int, typer.Option(min=1, help="Number of newest snapshots that stay.")] = 3,
    json_: Json = False,
) -> None:
    """Remove old snapshots, and what killed commands left unfinished.

    Whatever the number, these stay: the current snapshot, those that a process of this machine reads, and what another
    command is building now.

    pinrec signals prune data/ml100k --keep 7
    """
    from pinrec_cli.console import print_json, stdout
    from signal_service.snapshot_changes import prune as remove_old

    signals = _signals(dataset)
    done = remove_old(signals, keep=keep)
    left = [str(path.relative_to(signals)) for path in done.left_overs]
    if json_:
        print_json({"removed": done.removed, "left_overs": left, "in_use": done.in_use, "bytes": done.bytes})
        return
    for name in (*done.removed, *left):
        stdout.print(f"removed {name}", soft_wrap=True, markup=False)
    for name in done.in_use:
        stdout.print(f"kept {name}: in use", soft_wrap=True, markup=False)
    stdout.print(f"{_mib(done.bytes)} in {len(done.removed)} snapshots")


def _signals(dataset: Path) -> Path:
    """The folder of signals that was meant. Whoever serves knows only that one, and not the dataset."""
    return dataset / "signals" if (dataset / "signals").is_dir() else dataset


def _described(one: ListedSnapshot) -> dict[str, Any]:
    """A listed snapshot as a JSON document."""
    from pinrec_core.validation import to_plain

    state = {"snapshot": one.name, "current": one.current, "in_use": one.in_use, "problem": one.problem}
    if one.snapshot is None:
        return state
    plain = to_plain(one.snapshot)
    return state | {name: plain[name] for name in plain if name not in ("format", "name", "files")} | {
        "bytes": one.snapshot.bytes
    }  # fmt: skip


def _table(listed: list[ListedSnapshot], signals: Path) -> Table:
    import datetime

    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=f"{len(listed)} snapshots in {signals}", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("snapshot", no_wrap=True)
    table.add_column("before (UTC)", no_wrap=True)
    for column in ("users", "events", "size"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("state", min_width=11, overflow="fold")
    for one in listed:
        name = f"[bold]{one.name}[/]" if one.current else one.name
        flags = {
            "current": one.current,
            "in use": one.in_use,
            "unfinished": not one.finished,
            "damaged": one.finished and one.problem is not None,
            "incremental": one.snapshot is not None and one.snapshot.parent is not None,
        }
        state = ", ".join(word for word, holds in flags.items() if holds)
        if one.snapshot is None:
            table.add_row(name, "", "", "", "", state)
            continue
        s = one.snapshot
        until = datetime.datetime.fromtimestamp(s.end_time, datetime.UTC).strftime("%Y-%m-%d %H:%M")
        table.add_row(name, until, f"{s.num_users:,}", f"{s.num_interactions:,}", _mib(s.bytes), state)
    return table


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
