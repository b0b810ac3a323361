"""The parts of ``python -m benchmarks.signals``: each makes rows in a folder of its own, in a short form as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.signals import batch, event_fuzz, fetch, ingest, int8, publish_kills, redis_kills, writer_kills
from benchmarks.signals.redis_server import MISSING, installed
from pinrec_core.errors import ConfigError
from pinrec_core.ids import IdKind
from signal_service.store import Durability

Row = dict[str, Any]


def of_fetch(folder: Path, quick: bool) -> list[Row]:
    """fetch, merge and de-quantise a long history"""
    users, long = (20_000, 1_000) if quick else (1_000_000, 10_000)
    timings = fetch.prepared_and_measured(folder, users=users, long=long, requests=500 if quick else 5_000)
    return [{"users": users, "history": 1_024, "what": what} | timing.to_dict() for what, timing in timings.items()]


def of_ingest(folder: Path, quick: bool) -> list[Row]:
    """append events in batches of 100, and how soon a reader sees them"""
    return ingest.run(folder, events=20_000 if quick else 400_000)


def of_writer_kills(folder: Path, quick: bool) -> list[Row]:
    """kill -9 of the writer of the embedded store"""
    rows: list[Row] = []
    for durability in Durability:
        kills = writer_kills.run(
            10 if quick else 200, location=str(folder / durability), durability=durability
        )  # fmt: skip
        rows.append(asdict(kills) | {"wrong": 0 if kills.sound else 1})
    return rows


def of_redis_kills(folder: Path, quick: bool) -> list[Row]:
    """kill -9 of the writer to Redis, and of Redis that keeps its log on the disk"""
    if not installed():
        raise ConfigError(MISSING)
    rows: list[Row] = []
    for killed in (redis_kills.Killed.WRITER, redis_kills.Killed.SERVER_ALWAYS):
        place = folder / killed.name.lower()
        place.mkdir()
        outcome = redis_kills.run(killed, rounds=10 if quick else 200, folder=place)
        rows.append(asdict(outcome) | {"wrong": outcome.lost + outcome.holes + outcome.duplicates})
    return rows


def of_publish_kills(folder: Path, quick: bool) -> list[Row]:
    """kill -9 of a publish; the first promise that is not kept ends it"""
    counts = publish_kills.run(folder, rounds=5 if quick else 50)
    return [{"what": "publish"} | asdict(counts) | {"next run failed": counts.rounds - counts.next_run_succeeded}]


def of_fuzz(folder: Path, quick: bool) -> list[Row]:
    """malformed, oversized and hostile events"""
    rows: list[Row] = []
    for kind in IdKind:
        fuzzed = event_fuzz.run(400 if quick else 10_000, location=folder / kind, kinds=kind)
        rows.append(
            {"ids": str(kind), "requests": fuzzed.requests, "malformed": fuzzed.malformed,
             "findings": len(fuzzed.findings), "first": next(iter(fuzzed.findings), "")}
        )  # fmt: skip
    return rows


def of_features(folder: Path, quick: bool) -> list[Row]:
    """INT8 features against FP32"""
    return int8.run(10_000 if quick else 200_000)


def of_batch(folder: Path, quick: bool) -> list[Row]:
    """full and incremental runs as a log grows"""
    return batch.run(folder, sizes=(100_000,) if quick else (1_000_000, 3_000_000, 10_000_000, 50_000_000))


PARTS: dict[str, Callable[[Path, bool], list[Row]]] = {
    "fetch": of_fetch,
    "ingest": of_ingest,
    "writer_kills": of_writer_kills,
    "redis_kills": of_redis_kills,
    "publish_kills": of_publish_kills,
    "fuzz": of_fuzz,
    "features": of_features,
    "batch": of_batch,
}
