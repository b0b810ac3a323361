"""``python -m benchmarks.signals.redis_kills``: ``kill -9`` of the writer, and of redis-server, at random moments.

A writer in a process of its own appends one batch after the other and reports each that was acknowledged. After a kill
the store is opened again and held against the reports. The next writer begins with the batch that was under way, as a
client that tries again does. What is counted:

* lost: batches that were acknowledged and are not there;
* holes: batches that are there in part, or lost while a later one is there;
* duplicates: events that are there more than once, and events that nobody has sent.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import struct
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.signals.redis_server import RedisServer, installed
from pinrec_core.errors import StoreError
from pinrec_core.history import ItemType
from signal_service.redis_store import RedisEventStore
from signal_service.store import Event, EventReader, Span

USERS = [b"user-%d" % i for i in range(50)]
USERS_OF_A_BATCH = 10
LONGEST_ROUND = 0.3  # seconds until the kill
_NUMBER = struct.Struct("<q")


class Killed(StrEnum):
    """What is killed, and how the server keeps its log."""

    WRITER = "writer"
    SERVER_ALWAYS = "server, appendfsync always"
    SERVER_EVERYSEC = "server, appendfsync everysec"
    SERVER_WITHOUT_LOG = "server, appendonly no"
    """Loses everything: shows that losses are noticed. Only the tests run it."""


SETTINGS = {
    Killed.WRITER: ("--appendonly", "yes", "--appendfsync", "everysec"),
    Killed.SERVER_ALWAYS: ("--appendonly", "yes", "--appendfsync", "always"),
    Killed.SERVER_EVERYSEC: ("--appendonly", "yes", "--appendfsync", "everysec"),
    Killed.SERVER_WITHOUT_LOG: ("--appendonly", "no"),
}


@dataclass(slots=True, kw_only=True)
class Outcome:
    killed: str
    rounds: int = 0
    acknowledged: int = 0
    """Events."""
    in_flight_stored: int = 0
    """Batches that were under way at the kill and are there, whole; the others are not there at all."""
    lost: int = 0
    holes: int = 0
    duplicates: int = 0


def batch(number: int) -> list[Event]:
    """Two events of each of ten users. The time of a batch is its number."""
    users = [USERS[(number * 7 + i * 3) % len(USERS)] for i in range(USERS_OF_A_BATCH)]
    return [
        Event(event_id=f"{number}-{kind}", user_key=user, item_key=number, item_type=ItemType.PIN, action="save",
              surface="home", timestamp=number)
        for user in users for kind in "ab"
    ]  # fmt: skip


def run(killed: Killed, *, rounds: int, folder: Path, seed: int = 0) -> Outcome:
    randomness = random.Random(seed)
    outcome = Outcome(killed=killed)
    begun = 0  # the first batch of a round
    with RedisServer(folder, *SETTINGS[killed]) as server:
        for _ in range(rounds):
            last = _write_until_killed(server, killed, begun, randomness.uniform(0.0, LONGEST_ROUND))
            server.start() if killed is not Killed.WRITER else server.wait()
            with RedisEventStore.open(server.location) as store:
                _check(store, first=begun, acknowledged=last, outcome=outcome)
            outcome.rounds += 1
            outcome.acknowledged += len(batch(0)) * (last + 1 - begun)
            begun = last + 1
        with RedisEventStore.open(server.location) as store:  # all of it again: what was there has stayed there
            stored, twice = _stored(store, since=0)
            outcome.duplicates += twice
            missing = sum(stored.get(n, 0) != len(batch(n)) for n in range(begun))
            outcome.lost = max(outcome.lost, missing)
    return outcome


def _write_until_killed(server: RedisServer, killed: Killed, first: int, seconds: float) -> int:
    """The last batch that was acknowledged; ``first - 1`` if none was."""
    reports, report = os.pipe()
    writer = multiprocessing.get_context("fork").Process(target=_write, args=(server.location, first, reports, report))
    writer.start()
    os.close(report)
    last = first - 1
    with open(reports, "rb") as received:
        ready = received.read(_NUMBER.size)  # the store is open
        assert ready, "the writer could not open the store"
        time.sleep(seconds)
        if killed is not Killed.WRITER:
            server.kill()
        writer.kill()
        writer.join()
        while len(number := received.read(_NUMBER.size)) == _NUMBER.size:
            last = _NUMBER.unpack(number)[0]
    return last


def _write(location: str, first: int, reports: int, report: int) -> None:
    os.close(reports)
    # a store whose server is gone ends the writer, quietly
    with contextlib.suppress(StoreError), RedisEventStore.open(location) as store:
        os.write(report, _NUMBER.pack(-1))
        number = first
        while True:
            store.append(batch(number))
            os.write(report, _NUMBER.pack(number))
            number += 1


def _check(store: EventReader, *, first: int, acknowledged: int, outcome: Outcome) -> None:
    """Counts what is wrong with the batches since ``first``."""
    stored, twice = _stored(store, since=first)
    size = len(batch(0))
    under_way = acknowledged + 1
    gone = {n for n in range(first, under_way) if stored.get(n, 0) == 0}
    outcome.duplicates += twice + sum(count for n, count in stored.items() if n > under_way)
    outcome.holes += sum(0 < count < size for count in stored.values())
    outcome.holes += sum(any(later > n for later in stored) for n in gone)
    outcome.in_flight_stored += stored.get(under_way, 0) == size
    outcome.lost += len(gone)


def _stored(store: EventReader, *, since: int) -> tuple[dict[int, int], int]:
    """How many events of each batch are there, and how many are there too often or were never sent."""
    spans = [Span(user_key=user, since=since, until=1 << 40, limit=1 << 40) for user in USERS]
    found = [e for one in store.read(spans) for e in one.events]
    different = set(found)
    sent = {number: set(batch(number)) for number in {e.timestamp for e in found}}
    counts: dict[int, int] = {}
    strange = 0
    for e in different:
        counts[e.timestamp] = counts.get(e.timestamp, 0) + 1
        strange += e not in sent[e.timestamp]
    return counts, len(found) - len(different) + strange


def main(
    rounds: Annotated[int, typer.Option(help="Kills of each kind.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    if not installed():
        sys.exit("redis-server is not installed")
    outcomes = []
    for killed in (Killed.WRITER, Killed.SERVER_ALWAYS, Killed.SERVER_EVERYSEC):
        with tempfile.TemporaryDirectory() as folder:
            outcomes.append(asdict(run(killed, rounds=rounds, folder=Path(folder), seed=seed)))
        print(outcomes[-1], file=sys.stderr, flush=True)
    print(json.dumps(outcomes))


if __name__ == "__main__":
    typer.run(main)
