"""Fetch, merge and de-quantise one long history, in process: ``python -m benchmarks.signals.fetch --users 1000000``.

The view and the real-time store hold all users. ``--long`` of them have ``--history`` interactions in the batch and
``--recent`` stored events, and these are asked for; the others have few of either, so that a million users fit on a
disk. One event in ten is a query, one in ten is late, and one in ten is held by the batch as well. Every request is of
another user, in an order that no cache foresees. The last line of the output is JSON.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine_card
from benchmarks.scale import require_disk
from benchmarks.timing import Timing
from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.dataset.catalogue import ItemCatalogue, write_catalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.history import History, ItemType
from pinrec_core.ids import IdKind, string_key, user_store_key
from pinrec_core.representations.quantization import dequantize
from signal_service.merge import merge_histories, newest
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Event, Span
from signal_service.user_histories import MAX_REALTIME_EVENTS, UserHistories
from signal_service.view_writing import write_batch_view

END = 1_700_000_000
ITEMS = 100_000
SHORT, SHORT_RECENT = 8, 1
OUTCOMES, SURFACES = ("like", "neutral"), ("", "home")
GOAL_MS = 2.0


def main(
    users: Annotated[int, typer.Option(help="Users in both stores.")] = 20_000,
    long: Annotated[int, typer.Option(help="How many of them have a long history.")] = 1_000,
    history: Annotated[int, typer.Option(help="Interactions of a long history.")] = 1_024,
    recent: Annotated[int, typer.Option(help="Stored events of a user with a long history.")] = 20,
    width: Annotated[int, typer.Option(help="Width of the content features; they get a text encoder of it.")] = 256,
    requests: Annotated[int, typer.Option(help="How many requests are timed.")] = 3_000,
    folder: Annotated[Path | None, typer.Option(help="Where a temporary folder is made.")] = None,
) -> None:
    """Time what the fetch stage does for one request, and its parts."""
    console = Console()
    card = machine_card()
    console.print(f"{card.cpu}, {card.cores} cores, load {card.load_average}, {users:,} users")
    with tempfile.TemporaryDirectory(prefix="pinrec-benchmarks-", dir=folder) as made:
        timings = prepared_and_measured(
            Path(made), users=users, long=min(long, users), history=history, recent=recent, width=width,
            requests=requests, console=console,
        )  # fmt: skip
    show(console, timings)
    settings = {"users": users, "long": long, "history": history, "recent": recent, "F": width, "goal_ms": GOAL_MS}
    rows = {what: timing.to_dict() for what, timing in timings.items()}
    print(json.dumps({"benchmark": "signals_fetch", "settings": settings, "rows": rows, "machine": card.to_dict()}))


def prepared_and_measured(
    place: Path,
    *,
    users: int,
    long: int,
    requests: int,
    history: int = 1_024,
    recent: int = 20,
    width: int = 256,
    console: Console = Console(stderr=True),  # noqa: B008, it has no state
) -> dict[str, Timed]:
    """Write both stores to ``place``, and time what a request takes. Raises ``ConfigError`` where the disk is small."""
    require_disk(place, (long * history + users * SHORT) * (width + 40) * 2, f"{users:,} users")
    manifest = manifest_of(width, users)
    catalogue = make_catalogue(place, width)
    began = time.perf_counter()
    make_view(place, manifest, catalogue, users=users, long=long, history=history)
    console.print(f"batch view written in {time.perf_counter() - began:.0f} s")
    began = time.perf_counter()
    with closing(RocksDbEventStore.open_primary(place / "realtime")) as store:
        for batch in event_batches(catalogue, users=users, long=long, history=history, recent=recent):
            store.append(batch)
        console.print(f"real-time store written in {time.perf_counter() - began:.0f} s")
        return measure(place, manifest, catalogue, long=long, history=history, requests=requests)


def measure(
    folder: Path, manifest: DatasetManifest, catalogue: ItemCatalogue, *, long: int, history: int, requests: int
) -> dict[str, Timed]:
    """The whole of a request first, then each part on its own, for the same users in the same order."""
    histories = UserHistories.open(manifest, catalogue, signals=folder / "signals", realtime=folder / "realtime")
    view, source, builder = histories._current.view, histories._realtime, histories.builder
    assert source is not None
    asked = np.random.default_rng(1).integers(0, long, requests)
    keys = [user_store_key(int(user), IdKind.INT) for user in asked]
    until = END + 10**6

    def whole(key: bytes) -> object:
        histories.refresh()
        (found,) = histories.at_many([(key, until)])
        kept = newest(found.history, history)
        assert len(kept) == history
        assert found.source == "both"
        return dequantize(kept.feature.astype(np.float32), kept.scale)

    def span(key: bytes) -> list[Span]:
        return [Span(user_key=key, since=0, until=until + 1, limit=MAX_REALTIME_EVENTS)]

    timings = {"fetch + merge + de-quantise": timed(whole, keys)}
    batches: dict[bytes, History] = {}
    parts: dict[bytes, History] = {}
    for key in set(keys):
        batch = view.get(key)
        assert batch is not None
        batches[key] = batch
        parts[key] = builder.build(source.read(span(key))[0].events, batch)
    timings |= {
        "read and decode the batch history": timed(view.get, keys),
        "read the stored events": timed(lambda key: source.read(span(key)), keys),
        "build their history": timed(
            lambda key: builder.build(key, None), [source.read(span(key))[0].events for key in keys]
        ),
        "merge": timed(lambda key: merge_histories(batches[key], parts[key], until=until, most=2048), keys),
        "de-quantise": timed(
            lambda one: dequantize(one.feature.astype(np.float32), one.scale), [batches[key] for key in keys]
        ),
    }
    source.close()
    return timings


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """The time that passed, and that of the processor alone, without what other processes took of it meanwhile."""

    passed: Timing
    processor: Timing

    def to_dict(self) -> dict[str, float]:
        return {
            "median_ms": round(self.passed.median_ms, 4), "p99_ms": round(self.passed.p99_ms, 4),
            "processor_median_ms": round(self.processor.median_ms, 4),
            "processor_p99_ms": round(self.processor.p99_ms, 4),
        }  # fmt: skip


def timed(function: Callable[[Any], object], arguments: list[Any]) -> Timed:
    """One call for each argument, after a twentieth of them to warm up."""
    for argument in arguments[: len(arguments) // 20]:
        function(argument)
    passed, processor = [], []
    for argument in arguments:
        before, used = time.perf_counter(), time.thread_time()
        function(argument)
        processor.append((time.thread_time() - used) * 1e3)
        passed.append((time.perf_counter() - before) * 1e3)
    return Timed(passed=Timing.of(passed), processor=Timing.of(processor))


def show(console: Console, timings: dict[str, Timed]) -> None:
    table = Table()
    for column in ("what", "median ms", "p99 ms", "processor median", "processor p99"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for what, timing in timings.items():
        table.add_row(what, *(f"{value:.3f}" for value in timing.to_dict().values()))
    console.print(table)


def manifest_of(width: int, users: int) -> DatasetManifest:
    encoder = f"hashed_ngram:{width}"
    return DatasetManifest(
        name="made up", user_id_kind=IdKind.INT, item_id_kind=IdKind.INT, outcomes=OUTCOMES,
        query_actions=("search",), ignored_actions=(), surfaces=SURFACES, feature_width=width,
        feature_space=f"{encoder}+vector:0", text_encoder=encoder, num_items=ITEMS, num_users=users,
        num_events=users * SHORT, outcome_share=(0.5, 0.5), first_timestamp=1, last_timestamp=END,
    )  # fmt: skip


def make_catalogue(folder: Path, width: int) -> ItemCatalogue:
    rng = np.random.default_rng(0)
    texts = pa.array([""] * ITEMS)
    write_catalogue(
        folder, item_key=np.arange(ITEMS), item_id=pa.array(np.arange(ITEMS)), title=texts, categories=texts,
        feature=rng.integers(-127, 128, (ITEMS, width), np.int8), scale=np.full(ITEMS, 0.01, np.float32),
    )  # fmt: skip
    return ItemCatalogue.open(folder)


def make_view(
    folder: Path, manifest: DatasetManifest, catalogue: ItemCatalogue, *, users: int, long: int, history: int
) -> None:
    (folder / "signals").mkdir()
    manifest.save(folder / "signals")
    info = BatchInfo(
        end_time=END, feature_space=manifest.feature_space, outcomes=OUTCOMES, surfaces=SURFACES, num_users=users,
        num_interactions=long * history + (users - long) * SHORT,
    )  # fmt: skip

    def rows() -> Iterator[tuple[int, History]]:
        for user in range(users):
            yield user, batch_history(user, history if user < long else SHORT, catalogue)

    write_batch_view(folder / "signals", rows(), info)


def batch_history(user: int, length: int, catalogue: ItemCatalogue) -> History:
    """A history of pins, some of them at the same second. Those of every user are alike but for their places."""
    rng = np.random.default_rng(user)
    row = rng.integers(0, ITEMS, length)
    return History(
        item_key=row, item_type=np.full(length, ItemType.PIN, np.uint8),
        outcome=rng.integers(0, len(OUTCOMES), length, np.int16), surface=np.ones(length, np.int16),
        timestamp=np.sort(END - 1 - rng.integers(0, 10 * length, length)),
        feature=catalogue.feature[row], scale=catalogue.scale[row],
    )  # fmt: skip


def event_batches(
    catalogue: ItemCatalogue, *, users: int, long: int, history: int, recent: int
) -> Iterator[list[Event]]:
    """The stored events of all users, a thousand users at a time."""
    for first in range(0, users, 1_000):
        yield [
            event
            for user in range(first, min(first + 1_000, users))
            for event in events_of(user, recent if user < long else SHORT_RECENT, history, catalogue, user < long)
        ]


def events_of(user: int, count: int, history: int, catalogue: ItemCatalogue, is_long: bool) -> Iterator[Event]:
    held = batch_history(user, history, catalogue) if is_long else None
    rng = np.random.default_rng(users_seed(user))
    for number in range(count):
        event = Event(
            event_id=f"e{number}", user_key=user_store_key(user, IdKind.INT), item_key=int(rng.integers(ITEMS)),
            item_type=ItemType.PIN, action=OUTCOMES[number % 2], surface="home", timestamp=END + 60 * number,
        )  # fmt: skip
        kind = number % 10
        if kind == 1:
            text = f"query {rng.integers(1_000_000)}"
            event = replace(event, item_key=string_key(text), item_type=ItemType.QUERY, action="search", query=text)
        elif kind == 2:
            event = replace(event, timestamp=END - 1 - int(rng.integers(5 * history)))
        elif kind == 3 and held is not None:
            place = int(rng.integers(len(held)))
            event = replace(
                event, item_key=int(held.item_key[place]), action=OUTCOMES[held.outcome[place]],
                timestamp=int(held.timestamp[place]),
            )  # fmt: skip
        yield event


def users_seed(user: int) -> list[int]:
    return [user, 1]  # another stream than that of the user's history


if __name__ == "__main__":
    typer.run(main)
