"""``python -m benchmarks.signals.writer_kills``: ``kill -9`` of the process that writes, at random moments.

A child process appends batches of random sizes to the store and reports each one that was acknowledged, through a
pipe. The parent knows every batch from its number, because each is made from it alone. After a kill the store is
opened again and compared: an acknowledged batch is there as a whole (none is lost), the one that was under way is there
as a whole or not at all (no hole), and nothing else is there (no duplicate). Then the next writer goes on, on the
same store; it sometimes sends the batch that was under way again, as a client does that got no answer.

Of what a store does beside appending, each round also does something: users are forgotten and events removed, by the
child, between two appends. What was acknowledged of that must hold as well.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import typer

from pinrec_core.history import ItemType
from signal_service.event_stores import open_reader, open_writer
from signal_service.store import Durability, Event, EventReader, Span

USERS = 50
REMOVED_EVERY, FORGOTTEN_EVERY = 7, 31
"""The batch before every so many batches is removed; a user is forgotten after every so many."""
LONGEST_ROUND = 0.25  # seconds from the first append to the kill
_REPORT = struct.Struct("<q")


@dataclass(slots=True, kw_only=True)
class Kills:
    """What became of a number of rounds. ``lost``, ``holes`` and ``duplicates`` count batches; all should be 0."""

    durability: str
    rounds: int = 0
    batches: int = 0
    events: int = 0
    under_way_stored: int = 0  # batches that were not acknowledged, and are there
    lost: int = 0
    holes: int = 0
    duplicates: int = 0
    not_opened: int = 0
    returned: int = 0  # events that were removed or forgotten, and are there again
    slowest_open_seconds: float = 0.0

    @property
    def sound(self) -> bool:
        return not (self.lost or self.holes or self.duplicates or self.not_opened or self.returned)


def user(number: int) -> bytes:
    return b"user-%d" % number


def batch(number: int) -> list[Event]:
    """1 to 200 events of random users. The time of each is the number of the batch."""
    randomness = random.Random(number)
    size = 1 if randomness.random() < 0.3 else randomness.randint(2, 200)
    return [
        Event(
            event_id=f"{number}-{position}", user_key=user(randomness.randrange(USERS)), item_key=position,
            item_type=ItemType.PIN, action="save", surface="home" * randomness.randint(0, 20), timestamp=number,
        )
        for position in range(size)
    ]  # fmt: skip


def forgotten_by(number: int) -> tuple[bytes, int] | None:
    """Who is forgotten after the batch, and up to when."""
    return (user(number // FORGOTTEN_EVERY % USERS), number - 1) if number % FORGOTTEN_EVERY == 0 else None


def expected(first: int, last: int) -> dict[int, set[str]]:
    """What must be there of the batches ``first`` to ``last``, after all that the writer does: event ids by batch."""
    gone_at: dict[bytes, int] = {}
    for number in range(first, last + 1):
        if one := forgotten_by(number):
            gone_at[one[0]] = one[1]
    left: dict[int, set[str]] = {}
    for number in range(first, last + 1):
        removed = (number + 1) % REMOVED_EVERY == 0 and number < last
        kept = [] if removed else [e for e in batch(number) if number > gone_at.get(e.user_key, -1)]
        left[number] = {event.event_id for event in kept}
    return left


def write(location: str, durability: Durability, first: int) -> Iterator[int]:
    """Append the batches from ``first`` on. Each number is given once all that belongs to its batch is acknowledged."""
    with closing(open_writer(location, durability=durability)) as store:
        yield first - 1
        number = first
        while True:
            if number % REMOVED_EVERY == 0 and number > first:
                store.remove(batch(number - 1))
            store.append(batch(number))
            if one := forgotten_by(number):
                store.forget(one[0], at=one[1])
            yield number
            number += 1


def run(rounds: int, *, location: str, durability: Durability, seed: int = 0) -> Kills:
    """Kill a writer of the store at ``location``, which is empty, ``rounds`` times."""
    randomness = random.Random(seed)
    result = Kills(durability=durability)
    first = 1
    for _ in range(rounds):
        last = _killed_writer(location, durability, first, randomness.uniform(0, LONGEST_ROUND))
        result.rounds += 1
        began = time.perf_counter()
        try:
            with closing(open_writer(location, durability=durability)):
                pass  # recovers from the log, as the next writer would
            with closing(open_reader(location)) as store:
                result.slowest_open_seconds = max(result.slowest_open_seconds, time.perf_counter() - began)
                under_way = _compare(store, first, last, result)
        except Exception as error:
            print(f"round {result.rounds}: {error}", file=sys.stderr)
            result.not_opened += 1
            return result
        result.batches += last + 1 - first
        result.events += sum(len(batch(number)) for number in range(first, last + 1))
        # The batch that was under way: sent again where a client would, left alone otherwise.
        first = last + 2 if under_way and randomness.random() < 0.5 else last + 1
        result.under_way_stored += under_way
    return result


def _compare(store: EventReader, first: int, last: int, result: Kills) -> bool:
    """Count what is wrong with the batches of a round. Returns whether the batch that was under way is there.

    The writer may have been killed in any of the steps of that batch: before or after the removal of the one before
    it, before or after a user was forgotten.
    """
    store.refresh()
    found = store.read([Span(user_key=user(n), since=first, until=1 << 40, limit=1 << 40) for n in range(USERS)])
    held: dict[int, list[Event]] = {}
    for one in found:
        for event in one.events:
            held.setdefault(event.timestamp, []).append(event)
    under_way = last + 1
    after = expected(first, under_way)
    before = expected(first, last)
    forgotten = forgotten_by(under_way)
    removed = under_way % REMOVED_EVERY == 0 and under_way > first
    for number in range(first, last + 1):
        ids = {event.event_id for event in held.get(number, ())}
        possible = [before[number]]
        if forgotten is not None:  # it may have been carried out
            possible.append({e.event_id for e in batch(number) if e.event_id in before[number]
                             and not (e.user_key == forgotten[0] and number <= forgotten[1])})  # fmt: skip
        if removed and number == last:
            possible.append(set())
        if ids in possible:
            continue
        missing = after[number] - ids
        result.lost += missing == after[number] and bool(missing)
        result.holes += bool(missing) and missing != after[number]
        result.returned += len(ids - before[number])
    whole = {event.event_id for event in batch(under_way)}
    ids = {event.event_id for event in held.get(under_way, ())}
    result.holes += ids not in (set(), whole)
    result.duplicates += sum(len(events) != len(set(events)) for events in held.values())
    result.duplicates += sum(number > under_way for number in held)
    result.duplicates += sum(bool(set(events) - set(batch(number))) for number, events in held.items())
    return ids == whole


def _killed_writer(location: str, durability: Durability, first: int, seconds: float) -> int:
    """The last batch that was acknowledged; ``first - 1`` if none was."""
    # Not a fork of this process, in which RocksDB would lack its threads, but of one that never opened a store.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["signal_service.event_stores", "typer"])  # imported once, not in each child
    reports, report = processes.Pipe(duplex=False)
    child = processes.Process(target=_report, args=(report, location, durability, first))
    child.start()
    report.close()
    last = first - 1
    try:
        reports.recv_bytes()  # the store is open
        time.sleep(seconds)
        child.kill()
        while True:
            (last,) = _REPORT.unpack(reports.recv_bytes())
    except EOFError:
        return last
    finally:
        child.kill()
        child.join()
        reports.close()


def _report(report: Connection, location: str, durability: Durability, first: int) -> None:
    for number in write(location, durability, first):
        report.send_bytes(_REPORT.pack(number))


def main(
    rounds: Annotated[int, typer.Option(help="Kills with each durability.")] = 200,
    durability: Annotated[Durability | None, typer.Option(help="Only this one.")] = None,
    location: Annotated[
        str | None, typer.Option(help="An empty store, as the URL of a server.", show_default="a temporary folder")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Exits with 1 when anything was lost, in part there, there twice, there again, or could not be opened."""
    sound = True
    for policy in Durability if durability is None else [durability]:
        with tempfile.TemporaryDirectory(prefix="pinrec-writer-kills-") as folder:
            place = location or str(Path(folder) / "realtime")
            result = run(rounds, location=place, durability=policy, seed=seed)
        print(json.dumps(asdict(result)))
        sound = sound and result.sound
    if not sound:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
