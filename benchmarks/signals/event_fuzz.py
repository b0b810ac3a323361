"""``python -m benchmarks.signals.event_fuzz``: malformed, oversized and hostile events through the ingest stage.

Every request is made from a valid one by a few changes, each of which makes it malformed, and goes through the loop
that all stages share, in batches with valid neighbours. What must hold: a malformed request is answered with a typed
error and stores nothing, its neighbours are answered and stored, and the store is usable and unchanged otherwise.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from pinrec_core import limits
from pinrec_core.contract import FORGET_USER, SIGNAL_INGEST
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import InvalidRequestError
from pinrec_core.ids import IdKind, user_store_key
from pinrec_core.stages.base import Tensors, run_batch
from signal_service.event_stores import open_writer
from signal_service.ingest_stage import SignalIngestStage
from signal_service.store import EventStore, Span

BATCH = 16  # requests, a quarter of them valid
NOW = 1_000_000
MAX_LATENESS = 900_000
VICTIM, NEIGHBOUR = 7, 8
"""The users of malformed requests, and of valid ones."""

Columns = dict[str, list]
Change = Callable[[random.Random, Columns], Tensors]


@dataclass(slots=True, kw_only=True)
class Fuzzed:
    """What came of it. ``findings`` are sentences about whatever must not be."""

    requests: int = 0
    malformed: int = 0
    findings: list[str] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    """How often each field was complained about."""
    slowest_batch_seconds: float = 0.0


def manifest(user_ids: IdKind, item_ids: IdKind) -> DatasetManifest:
    return DatasetManifest(
        name="fuzz", user_id_kind=user_ids, item_id_kind=item_ids, outcomes=("save", "click"),
        query_actions=("search",), ignored_actions=("hide",), surfaces=("", "home"), feature_width=8,
        feature_space="hashed_ngram:8", text_encoder="hashed_ngram:8", num_items=1, num_users=1, num_events=1,
        outcome_share=(0.5, 0.5), first_timestamp=1, last_timestamp=2,
    )  # fmt: skip


def run(requests: int, *, location: str | Path, seed: int = 0, kinds: IdKind = IdKind.INT) -> Fuzzed:
    """Send ``requests`` to a stage on the store at ``location``, which is empty."""
    randomness = random.Random(seed)
    result = Fuzzed()
    errors: Counter[str] = Counter()
    store = open_writer(location)
    stage = SignalIngestStage(manifest(kinds, kinds), store, clock=lambda: float(NOW), max_lateness=MAX_LATENESS)
    expected = 0
    try:
        while result.requests < requests:
            batch: list[Tensors] = []
            valid: list[bool] = []
            for _ in range(min(BATCH, requests - result.requests)):
                is_valid = randomness.random() < 0.25
                number = result.requests + len(batch)
                batch.append(_arrays(valid_events(randomness, NEIGHBOUR, number, kinds), kinds) if is_valid
                             else malformed(randomness, number, kinds))  # fmt: skip
                valid.append(is_valid)
            began = time.perf_counter()
            answers = run_batch(stage, batch)
            result.slowest_batch_seconds = max(result.slowest_batch_seconds, time.perf_counter() - began)
            for is_valid, tensors, answer in zip(valid, batch, answers, strict=True):
                number = result.requests
                result.requests += 1
                if is_valid:
                    size = len(tensors["event_id"])
                    expected += size
                    if isinstance(answer, Exception) or answer["stored"].tolist() != [size]:
                        result.findings.append(f"request {number} is valid and was answered with {answer!r}")
                    continue
                result.malformed += 1
                if not isinstance(answer, InvalidRequestError):
                    result.findings.append(f"request {number} was answered with {answer!r}: expected a typed error")
                else:
                    errors[str(answer).split("=")[0].split("[")[0].split(" ")[0]] += 1
        _check_store(store, kinds, expected, result)
    finally:
        stage.close()
    result.errors = dict(errors.most_common())
    return result


def _check_store(store: EventStore, kinds: IdKind, expected: int, result: Fuzzed) -> None:
    keys = {user_store_key(user if kinds is IdKind.INT else str(user), kinds): user for user in (VICTIM, NEIGHBOUR)}
    others = [key for key in store.user_keys() if key not in keys]
    if others:
        result.findings.append(f"{len(others)} users have events and sent none that is valid, as {others[0]!r}")
    for key, user in keys.items():
        (found,) = store.read([Span(user_key=key, since=0, until=1 << 40, limit=1 << 40)])
        wanted = expected if user == NEIGHBOUR else 0
        if len(found.events) != wanted:
            result.findings.append(f"user {user} has {len(found.events)} events: expected {wanted}")
    if forgotten := list(store.forgotten()):
        result.findings.append(f"{len(forgotten)} users are forgotten, though no request for it was valid")


def valid_events(randomness: random.Random, user: int, number: int, kinds: IdKind) -> Columns:
    """One to four events of a user."""
    integer = kinds is IdKind.INT
    columns: Columns = {spec.name: [] for spec in SIGNAL_INGEST.inputs}
    for position in range(randomness.randint(1, 4)):
        search = randomness.random() < 0.3
        item: object = 0 if search else randomness.randint(-(1 << 63), (1 << 63) - 1)
        row = (
            f"{number}-{position}", user if integer else str(user), item if integer else ("" if search else f"p{item}"),
            "search" if search else randomness.choice(["save", "click", "hide"]), randomness.randint(200_000, NOW),
            randomness.choice(["", "home"]), "red shoes" if search else "",
        )  # fmt: skip
        for name, value in zip(columns, row, strict=True):
            columns[name].append(value)
    return columns


def malformed(randomness: random.Random, number: int, kinds: IdKind) -> Tensors:
    """A request of the victim's with one fault, at a random place, and sometimes with another fault beside it."""
    columns = valid_events(randomness, VICTIM, number, kinds)
    if randomness.random() < 0.2:
        _spoil(randomness, columns, kinds)
    if randomness.random() < 0.75:
        _spoil(randomness, columns, kinds)
        return _arrays(columns, kinds)
    return _misshapen(randomness, _arrays(columns, kinds))


def _spoil(randomness: random.Random, columns: Columns, kinds: IdKind) -> None:
    """Put a value into one event that makes it malformed whatever else the event holds."""
    place = randomness.randrange(len(columns["event_id"]))
    noise = bytes(randomness.randrange(256) for _ in range(randomness.randint(1, 40)))
    long = b"x" * randomness.choice([limits.QUERY.most + 1, 1 << 16, 300_000])
    faults: list[tuple[str, Sequence[object]]] = [
        ("event_id", (b"", long, b"\xff" + noise, b"\xed\xa0\x80")),
        ("event_action", (b"", b"Save", b"save ", b"save\0", b"' OR 1=1 --", b"\xff" + noise, b"../../x", long)),
        ("event_timestamp", (0, -1, -(1 << 63), (1 << 63) - 1, NOW + 301, NOW * 1000, NOW - MAX_LATENESS - 1)),
        ("event_surface", (b"Home", b"\0", b"\xff" + noise, b"home ", long)),
        ("event_query", (b"\xff" + noise, long, b"\xc0\x80")),
    ]
    if kinds is IdKind.STRING:
        faults.append(("event_user_id", (b"", long, b"\xff" + noise)))
        faults.append(("event_item_id", (long, b"\xff" + noise)))
    name, values = randomness.choice(faults)
    columns[name][place] = randomness.choice(values)
    if randomness.random() < 0.1:  # to forget a user is no action on an item, and no search
        columns["event_action"][place] = FORGET_USER
        columns["event_query"][place] = "red shoes"


def _misshapen(randomness: random.Random, tensors: dict[str, np.ndarray]) -> Tensors:
    """Leave a tensor out, cut, fold or empty it, repeat all of them far too often, or take ids of the other kind."""
    name = randomness.choice(list(tensors))
    values = tensors[name]
    match randomness.randrange(7):
        case 0:
            return {other: tensor for other, tensor in tensors.items() if other != name}
        case 1:
            return tensors | {name: np.concatenate([values, values[:1]])}
        case 2:
            return tensors | {name: values[None]}
        case 3:
            return {other: tensor[:0] for other, tensor in tensors.items()}
        case 4:
            return {other: np.resize(tensor, limits.EVENTS.most + 1) for other, tensor in tensors.items()}
        case 5:
            name = randomness.choice(["event_user_id", "event_item_id"])
            integers = tensors[name].dtype == np.int64
            return tensors | {name: _texts(["1"] * len(values)) if integers else np.ones(len(values), np.int64)}
        case _:
            big = np.array([b"y" * limits.REQUEST.most] * len(values), np.object_)
            return tensors | {"event_query": big}


def _arrays(columns: Columns, kinds: IdKind) -> dict[str, np.ndarray]:
    numbers = {"event_timestamp"} | ({"event_user_id", "event_item_id"} if kinds is IdKind.INT else set())
    return {name: np.array(values, np.int64) if name in numbers else _texts(values) for name, values in columns.items()}


def _texts(values: Sequence[str | bytes]) -> np.ndarray:
    encoded = np.empty(len(values), np.object_)
    encoded[:] = [value.encode() if isinstance(value, str) else value for value in values]
    return encoded


def main(
    requests: Annotated[int, typer.Option(help="How many, a quarter of them valid.")] = 20_000,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    for kinds in IdKind:
        with tempfile.TemporaryDirectory(prefix="pinrec-event-fuzz-") as folder:
            result = run(requests // 2, location=Path(folder) / "realtime", seed=seed, kinds=kinds)
        print(json.dumps({"ids": kinds} | asdict(result)))
        if result.findings:
            raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
