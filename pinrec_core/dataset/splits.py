"""Decides what is held out: some users, by a hash of their id, and the last interactions of every user.

Training, evaluation and the counting baselines all use it, so that no model learns from what it is evaluated on.
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
_HELD_OUT, _VALIDATION, _SAMPLE = 1, 2, 3  # hash seeds, one for each decision


def is_evaluation_user(user_id: int | str, share: float) -> bool:
    """Whether a user belongs to the held-out ``share`` of users.

    Only a hash of the id's text decides. The answer depends on no other user, and it is the same for an id that is
    written as an integer and as a string.
    """
    return _user_hash(user_id, _HELD_OUT) < share * 2.0**64


def is_validation_user(user_id: int | str) -> bool:
    """Whether a held-out user is for validation: settings are chosen and calibrated on a quarter of them.

    Metrics are reported on the others only. On the users of the calibration they would be too good.
    """
    return _user_hash(user_id, _VALIDATION) < VALIDATION_SHARE * 2.0**64


def without_last(history: History, count: int) -> History:
    """The part of a history before its last ``count`` interactions with an outcome, which are left for evaluation.

    Queries are not counted, because they are never an evaluation target. The result is empty if the history has fewer
    interactions.
    """
    if count == 0:
        return history
    target = np.flatnonzero(history.outcome != NO_OUTCOME)
    return history.take(slice(0, int(target[-count]) if len(target) >= count else 0))


def sampling_order(user_id: int | str) -> int:
    """A sort key that shuffles users, always in the same way: the first n users in this order are a random sample.

    The first n users of a file are not random: where ids were assigned over time, they are the oldest accounts.
    """
    return _user_hash(user_id, _SAMPLE)


def _user_hash(user_id: int | str, seed: int) -> int:
    """The xxh64 of the id's text. The hashes of different seeds are independent."""
    return xxhash.xxh64_intdigest(str(user_id).encode("utf-8"), seed)


def training_histories(dataset: Path, *, share: float, held_out_last: int = 0) -> Iterator[History]:
    """The histories to learn from: of the users that are not held out, without the last ``held_out_last`` items."""
    for user_id, history in iter_histories(dataset / SEQUENCES):
        if not is_evaluation_user(user_id, share):
            yield without_last(history, held_out_last)
