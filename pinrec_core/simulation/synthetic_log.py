"""Writes a synthetic log: ``events.parquet``, ``items.parquet`` and the ``dataset.toml`` that describes them.

Users are generated chunk by chunk, and each chunk is written as a row group. One chunk and the catalogue are in memory.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pinrec_core.files.output_folder import output_folder
from pinrec_core.simulation.latent_world import ACTIONS, SURFACES, EventChunk, LatentWorld, WorldConfig

EVENTS, ITEMS, SPEC = "events.parquet", "items.parquet", "dataset.toml"
Progress = Callable[[str, int, int], None]
"""Is called with a phase, the number of rows that are done in it, and the number of all."""
CHUNK_EVENTS = 1 << 18  # events that are generated at once, unless a single user has more
_CHUNK_ITEMS = 1 << 16

_SPEC_TEXT = """\
# A synthetic log, made by `pinrec synth`; `pinrec prepare --config` takes this file.
name = {name}
outcomes = ["save", "click", "long_click", "outbound_click"]
query_actions = [{query_actions}]
ignored_actions = ["hide"]
user_id_kind = "{kind}"
item_id_kind = "{kind}"

[events]
files = ["events.parquet"]
user = "user_id"
item = "item_id"
action = "action"
timestamp = "timestamp"
surface = "surface"
query = "query"

[items]
files = ["items.parquet"]
id = "item_id"
title = "title"
categories = ["topic", "kind"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthReport:
    """The amount that was written, and the time it took."""

    users: int
    items: int
    events: int
    queries: int
    seconds: float

    @property
    def events_per_second(self) -> float:
        return self.events / max(self.seconds, 1e-9)


def event_chunks(world: LatentWorld, chunk_events: int) -> Iterator[EventChunk]:
    """The whole log in chunks of at most ``chunk_events`` events. Users are not split, so one user may exceed this."""
    events = world.events_per_user()
    through = np.cumsum(events)
    first = 0
    while first < len(events):
        before = through[first - 1] if first else 0
        end = max(first + 1, int(np.searchsorted(through, before + chunk_events, side="right")))
        yield world.generate(first, events[first:end])
        first = end


def write_synthetic_log(
    config: WorldConfig,
    out: Path,
    *,
    string_ids: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda phase, done, total: None,
) -> SynthReport:
    """Write the log of ``config`` to folder ``out``. The same configuration and libraries give the same bytes.

    Raises ``DataError`` when ``out`` exists, unless it is a synthetic log and ``overwrite`` is set.
    """
    out = Path(out)
    started = time.perf_counter()
    with output_folder(out, overwrite=overwrite, is_replaceable=_is_synthetic_log, kind="synthetic log") as folder:
        world = LatentWorld(config)
        _write_items(world, folder / ITEMS, string_ids, progress)
        events, queries = _write_events(world, folder / EVENTS, string_ids, progress)
        spec = _SPEC_TEXT.format(
            name=json.dumps(out.resolve().name),
            query_actions='"search"' if config.queries else "",
            kind="string" if string_ids else "int64",
        )
        (folder / SPEC).write_text(spec, "utf-8")
    return SynthReport(
        users=config.users, items=config.items, events=events, queries=queries, seconds=time.perf_counter() - started
    )


def _is_synthetic_log(folder: Path) -> bool:
    return {path.name for path in folder.iterdir()} == {EVENTS, ITEMS, SPEC}


def _write_items(world: LatentWorld, path: Path, string_ids: bool, progress: Progress) -> None:
    V = world.config.items
    schema = pa.schema(
        {"item_id": _id_type(string_ids), "title": pa.string(), "topic": pa.string(), "kind": pa.string()}
    )
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, V, _CHUNK_ITEMS):
            rows = range(start, min(start + _CHUNK_ITEMS, V))
            columns = [
                _external(np.arange(rows.start, rows.stop), "pin", string_ids),
                pa.array([world.title(row) for row in rows]),
                pa.array([world.topic(row) for row in rows]),
                pa.array([world.kind(row) for row in rows]),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            progress("writing items", rows.stop, V)


def _write_events(world: LatentWorld, path: Path, string_ids: bool, progress: Progress) -> tuple[int, int]:
    """Write the events. Returns the number of events, including queries, and that of queries."""
    schema = pa.schema(
        {
            "user_id": _id_type(string_ids),
            "item_id": _id_type(string_ids),
            "action": pa.string(),
            "surface": pa.string(),
            "timestamp": pa.int64(),
            "query": pa.string(),
        }
    )
    actions, surfaces, texts = pa.array(ACTIONS), pa.array(SURFACES), pa.array(world.query_texts)
    written = queries = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for chunk in event_chunks(world, CHUNK_EVENTS):
            is_query = chunk.query >= 0
            columns = [
                _external(chunk.user, "user", string_ids),
                _external(chunk.item, "pin", string_ids, missing=is_query),
                actions.take(pa.array(chunk.action)),
                surfaces.take(pa.array(chunk.surface)),
                pa.array(chunk.timestamp),
                texts.take(pa.array(chunk.query, mask=~is_query)),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            written += len(chunk)
            queries += int(is_query.sum())
            progress("writing events", written, world.config.events)
    return written, queries


def _id_type(string_ids: bool) -> pa.DataType:
    return pa.string() if string_ids else pa.int64()


def _external(number: np.ndarray, prefix: str, string_ids: bool, missing: np.ndarray | None = None) -> pa.Array:
    """Ids as in the log: the number itself, or a text such as ``pin-0000123``."""
    if not string_ids:
        return pa.array(number.astype(np.int64), mask=missing)
    return pa.array(np.char.add(f"{prefix}-", np.char.zfill(number.astype(str), 7)).astype(object), mask=missing)
