"""Merges the batch part and the real-time part of a history (PinRec, serving). All functions are pure.

The result is what a full rebuild of the batch would hold at the moment of the request, events included that came too
late for the last batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pinrec_core.history import History, ItemType


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """A merged history, and how many of its interactions come from either part."""

    history: History
    from_batch: int
    from_realtime: int


def merge_histories(
    batch: History, realtime: History, *, until: int, after: int | None = None, most: int | None = None
) -> Merged:
    """Both parts in order of time, without duplicates: the newest ``most`` with ``after < timestamp <= until``.

    Interactions with the same item, outcome and time are duplicates. The first of them is kept, and those of the batch
    come first. Equal times keep their order. Inputs need not be sorted. The arrays of the result may be views.
    """
    whole = History.concatenate([batch, realtime]) if len(realtime) else batch
    time = whole.timestamp
    order: np.ndarray | None = None  # None: the positions as they are
    if (time[1:] < time[:-1]).any():
        order = np.argsort(time, kind="stable")
        time = time[order]
    start = 0 if after is None else int(np.searchsorted(time, after, side="right"))
    end = int(np.searchsorted(time, until, side="right"))
    repeats = _repeats(whole, order, start, end)
    chosen: np.ndarray | slice
    if len(repeats):
        chosen = np.delete(np.arange(start, end), repeats - start)
        chosen = chosen if most is None else chosen[max(len(chosen) - most, 0) :]
    else:
        start = start if most is None else max(start, end - most)
        chosen = slice(start, max(start, end))
    positions = chosen if order is None else order[chosen]
    history = whole.take(positions)
    if isinstance(positions, slice):
        from_batch = min(max(len(batch) - positions.start, 0), len(history))
    else:
        from_batch = int((positions < len(batch)).sum())
    return Merged(history=history, from_batch=from_batch, from_realtime=len(history) - from_batch)


def cut_at(batch: History, most: int) -> int | None:
    """The time at or before which a full batch history takes in nothing more, None for one that is not full.

    A batch of the newest ``most`` interactions has left out what was older, so a late event from before its oldest
    interaction would be left out as well. At the very second of that interaction it cannot be told whether an event
    came late or was left out; the choice of the batch stands.
    """
    return int(batch.timestamp[0]) if len(batch) and len(batch) >= most else None


def newest(history: History, limit: int) -> History:
    """The last ``limit`` interactions, as a view."""
    return history.take(slice(max(len(history) - limit, 0), None))


def seen_item_keys(history: History) -> np.ndarray:
    """The distinct keys of the pins in a history, ascending, int64 ``[X]``."""
    return np.unique(history.item_key[history.item_type == ItemType.PIN])


def _repeats(history: History, order: np.ndarray | None, start: int, end: int) -> np.ndarray:
    """Places in ``start … end`` of the order whose interaction is equal to one at an earlier place.

    Duplicates have the same time, so only places beside one of the same time are compared.
    """

    def ordered(values: np.ndarray, places: np.ndarray | slice) -> np.ndarray:
        return values[places] if order is None else values[order[places]]

    time = ordered(history.timestamp, slice(start, end))
    same = time[1:] == time[:-1]
    if not same.any():
        return np.empty(0, np.int64)
    beside = np.zeros(len(time), bool)
    beside[1:] |= same
    beside[:-1] |= same
    places = np.flatnonzero(beside) + start
    columns = (history.item_key, history.item_type, history.outcome, history.timestamp)
    fields = [ordered(values, places) for values in columns]
    by_field = np.lexsort(fields)  # stable, so that equal interactions keep their order
    equal = np.ones(len(places) - 1, bool)
    for values in fields:
        sorted_values = values[by_field]
        equal &= sorted_values[1:] == sorted_values[:-1]
    return np.sort(places[by_field[1:][equal]])
