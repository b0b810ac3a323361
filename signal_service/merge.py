"""Merges the batch part and the real-time part of a history (PinRec, serving). All functions are pure."""

from __future__ import annotations

import numpy as np

from pinrec_core.history import History, ItemType


def merge_histories(batch: History, realtime: History, *, until: int) -> History:
    """Both parts in order of time, up to and including ``until``, without duplicates.

    Interactions with the same item, outcome and time are duplicates. The first of them is kept, and those of the batch
    come first. Equal times keep their order. Inputs need not be sorted.
    """
    merged = History.concatenate([batch, realtime]) if len(realtime) else batch
    if len(merged) == 0:
        return merged
    step = np.diff(merged.timestamp)
    if step.min(initial=0) < 0:
        merged = merged.take(np.argsort(merged.timestamp, kind="stable"))
        step = np.diff(merged.timestamp)
    if merged.timestamp[-1] > until:
        merged = before(merged, until + 1)
        step = step[: max(len(merged) - 1, 0)]
    if not (step == 0).any():  # duplicates have the same time
        return merged
    return merged.take(first_occurrences(merged))


def first_occurrences(history: History) -> np.ndarray:
    """Positions, ascending, int64, of the first interaction of each time, item and outcome."""
    fields = (history.item_key, history.item_type, history.outcome, history.timestamp)
    order = np.lexsort(fields)  # stable, so equal interactions keep their order
    differs = np.zeros(max(len(history) - 1, 0), bool)
    for values in fields:
        ordered = values[order]
        differs |= ordered[1:] != ordered[:-1]
    return np.sort(order[np.concatenate([[True], differs])[: len(history)]])


def before(history: History, time: int) -> History:
    """The interactions before ``time`` of a history in order of time, as a view."""
    return history.take(slice(0, int(np.searchsorted(history.timestamp, time))))


def newest(history: History, limit: int) -> History:
    """The last ``limit`` interactions, as a view."""
    return history.take(slice(max(len(history) - limit, 0), None))


def seen_item_keys(history: History) -> np.ndarray:
    """The distinct keys of the pins in a history, ascending, int64 ``[X]``."""
    return np.unique(history.item_key[history.item_type == ItemType.PIN])
