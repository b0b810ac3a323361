"""Who and what is held out: users by a hash of their id, and the last interactions of everybody's history.

Training, evaluation and the counting baselines all ask here, so that none learns from what another is judged on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash

from pinrec_core.dataset.manifest import SEQUENCES
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.history import NO_OUTCOME, History

VALIDATION_SHARE = 0.25
_HELD_OUT, _VALIDATION, _SAMPLE = 1, 2, 3  # hash seeds, one per question


def is_evaluation_user(user_id: int | str, share: float) -> bool:
    """Whether a user belongs to the held-out ``share`` of users.

    Decided by a hash of the id's text alone: it depends on no other user, and an id falls on the same side whether it
    is written as an integer or as a string.
    """
    return _user_hash(user_id, _HELD_OUT) < share * 2.0**64


def is_validation_user(user_id: int | str) -> bool:
    """Whether a held-out user is one of those that settings are chosen and calibrated on: a quarter of them.

    The others are for the figures, which would flatter what was chosen on them.
    """
    return _user_hash(user_id, _VALIDATION) < VALIDATION_SHARE * 2.0**64


def without_last(history: History, count: int) -> History:
    """A history up to its ``count``-th last interaction with an outcome: those from there on are for evaluation alone.

    Queries do not count, for they are never the item that is left out. With fewer interactions nothing remains.
    """
    if count == 0:
        return history
    target = np.flatnonzero(history.outcome != NO_OUTCOME)
    return history.take(slice(0, int(target[-count]) if len(target) >= count else 0))


def sampling_order(user_id: int | str) -> int:
    """Sorts users as if they were shuffled, the same way each time: the first n of them are a sample of n.

    The first n of a file are none: ids that were given out over time sort early users first.
    """
    return _user_hash(user_id, _SAMPLE)


def _user_hash(user_id: int | str, seed: int) -> int:
    """xxh64 of the id's text; hashes of different seeds are independent."""
    return xxhash.xxh64_intdigest(str(user_id).encode("utf-8"), seed)


def training_histories(dataset: Path, *, share: float, held_out_last: int = 0) -> Iterator[History]:
    """What a model of this split may learn from: users not held out, without their last ``held_out_last``."""
    for user_id, history in iter_histories(dataset / SEQUENCES):
        if not is_evaluation_user(user_id, share):
            yield without_last(history, held_out_last)
