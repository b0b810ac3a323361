"""Kills a publish of batch signals at random points, and looks after each what serves.

``python -m benchmarks.signals.publish_kills --rounds 50``. In a round, a process publishes a snapshot and gets SIGKILL
at a random moment. Whatever it had reached, one whole snapshot has to serve, the one before or the new one; a reader
that was open all the time has to go on; the next publish has to succeed; and a prune has to leave nothing behind. Every
history is made of the number of its snapshot, so a mixture of two is noticed. Every fourth round begins with the plain
folders of before there were snapshots. Spark is left out: the histories are written directly.
"""

from __future__ import annotations

import datetime
import json
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.files.folder_lock import LOCK_FILE
from pinrec_core.history import DTYPES, History
from pinrec_core.ids import IdKind, user_store_key
from signal_service.batch_view import SEQUENCES, VIEW, BatchView
from signal_service.current_view import CurrentView
from signal_service.snapshot_changes import create, prune, publish
from signal_service.snapshots import CURRENT, SNAPSHOTS, current_name, list_snapshots, open_snapshot
from signal_service.view_writing import write_view

USERS, T, F = 64, 12, 8
KEPT = 2
FIRST_END, DAY = 1_700_000_000, 86_400
PATIENCE_SECONDS = 60.0
"""Within which the reader has to have the new snapshot. No figure: only so that a failure ends."""

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["benchmarks.signals.publish_kills"])


class PublishBrokenError(Exception):
    """A promise was not kept. The message says in which round, and what was found."""


@dataclass(slots=True, kw_only=True)
class Counts:
    """What the rounds found. ``rounds`` = ``previous_served`` + ``new_served``."""

    rounds: int = 0  # in which a publish was killed
    from_plain_folders: int = 0
    ended_before: int = 0  # publishes that ended before their signal came, which count as no round
    previous_served: int = 0
    new_served: int = 0
    unfinished: int = 0  # rounds in which the killed publish left something behind; the next run and a prune removed it
    next_run_succeeded: int = 0


def run(folder: Path, *, rounds: int, seed: int = 0, report: Callable[[int], None] = lambda done: None) -> Counts:
    """Raises ``PublishBrokenError`` at the first promise that is not kept."""
    random_moment = random.Random(seed)
    counts = Counts()
    signals, reader, number = folder / "signals", None, 0
    seconds = {True: _measured(folder / "measured"), False: 0.0}  # of a publish, from plain folders or not
    try:
        while counts.rounds < rounds:
            i = counts.rounds + counts.ended_before
            place, plain = f"publish {i}", i % 4 == 0
            if plain:
                if reader is not None:
                    reader.close()
                shutil.rmtree(signals, ignore_errors=True)
                number += 1
                signals.mkdir(parents=True)
                build_numbered(signals, number)
                reader = CurrentView(signals, lambda view: None)
            assert reader is not None
            child = _publishing(signals, number + 1)
            child.join(random_moment.uniform(0, seconds[plain]))
            killed = child.is_alive()
            child.kill()
            child.join()
            serves = serving_number(signals, place)
            _require(serves in (number, number + 1), place, f"serves {serves}, expected {number} or {number + 1}")
            if killed:
                counts.rounds += 1
                counts.unfinished += _hidden(signals)
                counts.from_plain_folders += plain
                counts.previous_served += serves == number
                counts.new_served += serves == number + 1
            else:
                counts.ended_before += 1
            _follow(reader, serves, place)

            number = serves + 1
            again = _publishing(signals, number)
            began = time.monotonic()
            again.join()
            seconds[False] = time.monotonic() - began
            _require(again.exitcode == 0, place, f"the next run ended with {again.exitcode}")
            serves = serving_number(signals, place)
            _require(serves == number, place, f"serves {serves} after the next run, expected {number}")
            counts.next_run_succeeded += killed
            _follow(reader, number, place)
            _prune(signals, place)
            report(counts.rounds)
    finally:
        if reader is not None:
            reader.close()
    return counts


def build_numbered(folder: Path, number: int) -> None:
    """Sequences, view and manifest of ``USERS`` users, whose histories hold ``number`` in every field that can."""
    end = end_of(number)
    manifest = DatasetManifest(
        name="numbered", user_id_kind=IdKind.INT, item_id_kind=IdKind.INT, outcomes=("save",), query_actions=(),
        ignored_actions=(), surfaces=("",), feature_width=F, feature_space=f"hashed_ngram:{F}+vector:0",
        text_encoder=f"hashed_ngram:{F}", num_items=1, num_users=USERS, num_events=USERS * T, outcome_share=(1.0,),
        first_timestamp=end - T, last_timestamp=end - 1,
    )  # fmt: skip
    manifest.save(folder)
    row = {
        "item_key": [number] * T, "item_type": [0] * T, "outcome": [0] * T, "surface": [0] * T,
        "timestamp": list(range(end - T, end)), "feature": [np.full(F, number % 100, np.int8).tobytes()] * T,
        "scale": [float(number)] * T,
    }  # fmt: skip
    types = {"item_key": pa.int64(), "item_type": pa.int8(), "outcome": pa.int16(), "surface": pa.int16()}
    types |= {"timestamp": pa.int64(), "feature": pa.binary(), "scale": pa.float32()}
    schema = pa.schema([("user_id", pa.int64()), *((name, pa.list_(types[name])) for name in DTYPES)])
    for part in ("sequences", "batch"):
        (folder / part).mkdir()
    half = USERS // 2
    for part, users in enumerate((range(half), range(half, USERS))):
        rows = pa.Table.from_pylist([{"user_id": user, **row} for user in users], schema=schema)
        pq.write_table(rows, folder / SEQUENCES / f"part-{part:05d}-{number}.parquet")
    info = BatchInfo(
        end_time=end, feature_space=manifest.feature_space, outcomes=manifest.outcomes, surfaces=manifest.surfaces,
        num_users=USERS, num_interactions=USERS * T,
    )  # fmt: skip
    info.save(folder / SEQUENCES)
    write_view(folder / SEQUENCES, folder / VIEW, manifest, progress=lambda done: None)


def publish_numbered(signals: Path, number: int) -> str:
    """Publish what ``build_numbered`` makes → the name of the snapshot."""

    def build(folder: Path) -> None:
        build_numbered(folder, number)

    snapshot = create(signals, build, end_time=end_of(number), now=datetime.datetime.now(datetime.UTC))
    return publish(signals, snapshot.name).name


def end_of(number: int) -> int:
    return FIRST_END + number * DAY


def serving_number(signals: Path, place: str = "") -> int:
    """The number of the snapshot that serves. Raises ``PublishBrokenError`` unless all of it is of one number."""
    name = current_name(signals)
    if name is not None:
        open_snapshot(signals, name)
    view = BatchView.open(signals)
    try:
        found = {number_of(view, user) for user in range(USERS)}
        found |= {int(history.item_key[0]) for _, history in iter_histories(signals / SEQUENCES)}
        users = sum(1 for _ in iter_histories(signals / SEQUENCES))
    finally:
        view.close()
    _require(len(found) == 1, place, f"histories of snapshots {sorted(found)}, expected one")
    _require(users == USERS, place, f"sequences of {users} users, expected {USERS}")
    return found.pop()


def number_of(view: BatchView, user: int) -> int:
    """The number in a user's history, every field of which has to agree with it."""
    history: History | None = view.get(user_store_key(user, IdKind.INT))
    if history is None:
        raise PublishBrokenError(f"user {user} is missing")
    number = int(history.item_key[0])
    end = end_of(number)
    whole = len(history) == T and bool((history.item_key == number).all()) and int(history.timestamp[-1]) == end - 1
    _require(whole and view.info.end_time == end, f"user {user}", f"history of {number} in a view of another")
    return number


def _publish_in_child(signals: Path, number: int, began: Event) -> None:
    began.set()
    publish_numbered(signals, number)


def _publishing(signals: Path, number: int) -> ForkServerProcess:
    """A process that has begun to publish."""
    began = _processes.Event()
    child = _processes.Process(target=_publish_in_child, args=(signals, number, began))
    child.start()
    began.wait(PATIENCE_SECONDS)
    return child


def _measured(folder: Path) -> float:
    """How long a whole publish takes, from the plain folders on: the longest of three."""
    times = []
    for number in range(1, 4):
        signals = folder / str(number)
        signals.mkdir(parents=True)
        build_numbered(signals, number)
        child = _publishing(signals, number + 1)
        started = time.monotonic()
        child.join()
        times.append(time.monotonic() - started)
    shutil.rmtree(folder)
    return max(times)


def _follow(reader: CurrentView, number: int, place: str) -> None:
    """Wait until the reader has this snapshot; until then it has to serve the one before as a whole."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        reader.refresh()
        found = {number_of(reader.view, user) for user in range(USERS)}
        _require(len(found) == 1, place, f"the open reader has {sorted(found)}, expected one")
        if found == {number}:
            return
        _require(time.monotonic() < deadline, place, f"the open reader still has {found}, expected {number}")
        time.sleep(0.01)


def _hidden(signals: Path) -> bool:
    """Whether something unfinished lies among the snapshots or beside the links."""
    paths = [*signals.iterdir(), *((signals / SNAPSHOTS).iterdir() if (signals / SNAPSHOTS).is_dir() else ())]
    return any(path.name.startswith(".") and path.name != LOCK_FILE for path in paths)


def _prune(signals: Path, place: str) -> None:
    """Remove what is old. Nothing unfinished may be there afterwards."""
    while prune(signals, keep=KEPT).in_use:  # until the reader has let go of what it read before
        time.sleep(0.05)
    _require(not _hidden(signals), place, "something unfinished is left behind")
    names = {path.name for path in signals.iterdir()}
    _require(names == {SNAPSHOTS, CURRENT, "sequences", "batch", "dataset.json"}, place, f"left behind: {names}")
    left = {path.name for path in (signals / SNAPSHOTS).iterdir()} - {LOCK_FILE}
    listed = list_snapshots(signals)
    _require(left == {one.name for one in listed}, place, f"left behind among the snapshots: {left}")
    _require(len(listed) <= KEPT, place, f"{len(listed)} snapshots after keep={KEPT}")
    _require(all(one.problem is None for one in listed), place, "a kept snapshot is damaged")


def _require(condition: bool, place: str, found: str) -> None:
    if not condition:
        raise PublishBrokenError(f"{place}: {found}")


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often a publish is killed.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the random moments.")] = 0,
) -> None:
    """Kill publishes, and print what was found as one JSON document."""
    with tempfile.TemporaryDirectory() as folder:
        counts = run(Path(folder), rounds=rounds, seed=seed, report=lambda done: typer.echo(f"round {done}", err=True))
    typer.echo(json.dumps(asdict(counts)))


if __name__ == "__main__":
    from benchmarks.signals.publish_kills import main as imported  # what the processes are given has to be importable

    sys.modules["__main__"].__spec__ = None  # so that no process runs this module a second time
    del sys.modules["__main__"].__file__
    typer.run(imported)
