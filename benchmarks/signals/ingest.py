"""Append events in batches of 100 with each durability, and how long a reader takes to see an event.

The writer is one process on one core. The disk is part of what is measured: ``disk`` waits for an fsync per batch.
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from pinrec_core.history import ItemType
from signal_service.event_stores import open_reader, open_writer
from signal_service.store import Durability, Event, Span

BATCH = 100
USERS = 100_000
LOOKED = 200  # appends after which a reader looks
NOW = 1_700_000_000


def run(folder: Path, *, events: int) -> list[dict[str, Any]]:
    """A row for each durability. The process is bound to one core while it runs."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        return [_measured(folder / durability, durability, events) for durability in Durability]
    finally:
        os.sched_setaffinity(0, cores)


def _measured(place: Path, durability: Durability, events: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    batches = [_batch(number, rng) for number in range(max(events // BATCH, LOOKED))]
    with closing(open_writer(place, durability=durability)) as writer:
        began, used = time.perf_counter(), time.process_time()
        for batch in batches:
            writer.append(batch)
        passed, processor = time.perf_counter() - began, time.process_time() - used
        seen = []
        with closing(open_reader(place)) as reader:
            for number in range(LOOKED):
                batch = _batch(len(batches) + number, rng)
                began = time.perf_counter()
                writer.append(batch)
                reader.refresh()
                last = batch[-1]
                (found,) = reader.read([Span(user_key=last.user_key, since=0, until=1 << 40, limit=1)])
                seen.append((time.perf_counter() - began) * 1e3)
                assert list(found.events) == [last], "an appended event was not visible"
    count = len(batches) * BATCH
    return {
        "durability": str(durability), "events": count, "batch": BATCH, "events/s": count / passed,
        "events/s of the processor": count / processor, "visible p50, ms": float(np.median(seen)),
        "visible p99, ms": float(np.percentile(seen, 99)),
    }  # fmt: skip


def _batch(number: int, rng: np.random.Generator) -> list[Event]:
    users = rng.integers(0, USERS, BATCH)
    return [
        Event(
            event_id=f"{number}-{position}", user_key=int(user).to_bytes(8, "big"), item_key=int(user) * 7 + position,
            item_type=ItemType.PIN, action="save", surface="home", timestamp=NOW + number * BATCH + position,
        )
        for position, user in enumerate(users)
    ]  # fmt: skip
