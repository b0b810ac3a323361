"""Orders the staged events, collapses repeats, sets duplicates aside and writes the rest, one partition at a time.

A partition holds all events of its users, so repeats and duplicates are found exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pinrec_core.history import ItemType
from pinrec_core.preparation.quarantine import Faults, QuarantineWriter, Reason
from pinrec_core.preparation.reader import Progress
from pinrec_core.preparation.schema import DatasetSpec
from pinrec_core.preparation.staging import StagedEvents

FOLDER_NAME = "events"


@dataclass(slots=True, kw_only=True)
class EventCounts:
    """What became of the staged events."""

    valid: int = 0
    collapsed: int = 0
    quarantined: int = 0
    users: int = 0
    queries: int = 0
    unlisted_surface: int = 0  # valid events with a surface outside the vocabulary, which are written as unknown
    ahead: int = 0  # valid events that are dated ahead of the clock
    by_action: dict[str, int]
    first_timestamp: int = np.iinfo(np.int64).max
    last_timestamp: int = np.iinfo(np.int64).min  # of those that are not ahead


def write_events(
    staged: StagedEvents,
    spec: DatasetSpec,
    surfaces: Sequence[str],
    folder: Path,
    quarantine: QuarantineWriter,
    progress: Progress,
    *,
    now: int,
) -> EventCounts:
    """Write ``events/part-*.parquet``, each sorted by user, then time, then position in the log.

    ``surfaces`` is the vocabulary; any other surface is written as unknown (''). Events at ``now`` (Unix seconds) or
    later are counted as ahead of the clock, unless the times of the log are positions. Holds one partition in memory.
    """
    end = None if spec.events.order_only_time else now
    out = folder / FOLDER_NAME
    out.mkdir()
    counts = EventCounts(by_action=dict.fromkeys(spec.actions, 0))
    total = sum(staged.rows_read.values()) - staged.quarantined
    done = 0
    for number, table in enumerate(staged.events.partitions()):
        done += table.num_rows
        if table.num_rows:
            kept = _clean(table, spec, staged, counts, quarantine)
            final = _final(kept, spec, pa.array(surfaces), end, counts)
            pq.write_table(final, out / f"part-{number:05d}.parquet", compression="zstd")
        progress("writing events", done, total)
    return counts


def _clean(
    table: pa.Table, spec: DatasetSpec, staged: StagedEvents, counts: EventCounts, quarantine: QuarantineWriter
) -> pa.Table:
    """The events of a partition in order, without repeats and duplicates."""
    table = table.combine_chunks()
    user = _codes(table["user_id"])
    order = np.lexsort((_numbers(table, "ordinal"), _numbers(table, "timestamp"), user))
    table, user = table.take(pa.array(order)), user[order]

    if spec.collapse_repeats:
        keep = ~_repeats(table, user)
        counts.collapsed += int((~keep).sum())
        table, user = table.filter(pa.array(keep)), user[keep]
    for identity_of in (_event_id, _interaction) if spec.events.event_id else (_interaction,):
        first_seen = _first_occurrence([user, *identity_of(table)])
        duplicate = first_seen != np.arange(len(user))
        _set_aside(table, duplicate, first_seen, staged, quarantine)
        counts.quarantined += int(duplicate.sum())
        table, user = table.filter(pa.array(~duplicate)), user[~duplicate]
    counts.users += len(np.unique(user))
    return table


def _repeats(table: pa.Table, user: np.ndarray) -> np.ndarray:
    """bool ``[n]``: whether an event has the same user, item and action as the event just before it."""
    same = np.zeros(len(user), bool)
    same[1:] = user[1:] == user[:-1]
    for name in ("item_key", "item_type", "action"):
        values = _numbers(table, name)
        same[1:] &= values[1:] == values[:-1]
    return same


def _event_id(table: pa.Table) -> list[np.ndarray]:
    """The arrays that tell a user's events apart by their event ids. An event without an id equals no other."""
    event = _numbers(table, "event_key")
    return [event, np.where(event == 0, _numbers(table, "ordinal"), 0)]


def _interaction(table: pa.Table) -> list[np.ndarray]:
    """The arrays that tell a user's events apart in a sequence: item, action and time, whatever the event ids.

    The batch job and the merge of batch and real-time events use the same rule, in which queries have no action.
    """
    item_type = _numbers(table, "item_type")
    action = np.where(item_type == ItemType.QUERY, -1, _numbers(table, "action"))
    return [_numbers(table, "item_key"), item_type, action, _numbers(table, "timestamp")]


def _first_occurrence(identity: Sequence[np.ndarray]) -> np.ndarray:
    """int64 ``[n]``: the position of the first event that equals each in all of ``identity``, arrays ``[n]``."""
    order = np.lexsort(identity[::-1])  # stable, so that the earliest of equal events comes first
    starts = np.zeros(len(order), bool)
    starts[:1] = True
    for values in identity:
        ordered = values[order]
        starts[1:] |= ordered[1:] != ordered[:-1]
    first = np.empty(len(order), np.int64)
    first[order] = order[np.flatnonzero(starts)[np.cumsum(starts) - 1]]
    return first


def _set_aside(
    table: pa.Table, duplicate: np.ndarray, first_seen: np.ndarray, staged: StagedEvents, quarantine: QuarantineWriter
) -> None:
    ordinal = _numbers(table, "ordinal")
    at = np.flatnonzero(duplicate)
    at = at[np.argsort(ordinal[at])]
    file, row = staged.locate(ordinal[at])
    first_file, first_row = staged.locate(ordinal[first_seen[at]])
    names = list(staged.first_ordinal)
    for number in np.unique(file):
        here = np.flatnonzero(file == number)
        faults = Faults(row[here])
        origin = [f"same event as {names[f]} row {r}" for f, r in zip(first_file[here], first_row[here], strict=True)]
        faults.mark(np.ones(len(here), bool), Reason.DUPLICATE_EVENT, "event", origin)
        quarantine.add(names[number], faults.table())


def _final(table: pa.Table, spec: DatasetSpec, vocabulary: pa.Array, end: int | None, counts: EventCounts) -> pa.Table:
    """The columns of the event files. Adds the events to ``counts``: those from ``end`` on are ahead of the clock."""
    code, timestamp = _numbers(table, "action"), _numbers(table, "timestamp")
    listed = pc.is_in(table["surface"], vocabulary)
    for name, number in zip(spec.actions, np.bincount(code, minlength=len(spec.actions)), strict=True):
        counts.by_action[name] += int(number)
    counts.valid += table.num_rows
    counts.queries += int((_numbers(table, "item_type") == 1).sum())
    counts.unlisted_surface += table.num_rows - int(pc.sum(listed).as_py() or 0)
    counts.first_timestamp = min(counts.first_timestamp, int(timestamp.min()))
    present = timestamp if end is None else timestamp[timestamp < end]
    counts.ahead += len(timestamp) - len(present)
    counts.last_timestamp = max(counts.last_timestamp, int(present.max(initial=counts.last_timestamp)))
    return pa.table(
        {
            "user_id": table["user_id"],
            "item_key": table["item_key"],
            "item_type": table["item_type"],
            "action": pa.array(spec.actions).take(pa.array(code)),
            "surface": pc.if_else(listed, table["surface"], ""),
            "timestamp": table["timestamp"],
            "ordinal": table["ordinal"],
        }
    )


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Integers, int64 ``[n]``, that are equal where the values of the column are."""
    if pa.types.is_integer(column.type):
        return column.to_numpy()
    return column.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy()
