"""What is drawn for a request: a stream of random numbers for each purpose, so that no draw follows from another.

The streams come from the request's own seed. So a request is answered alike whatever batch it lands in.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import xxhash

from pinrec_core.ids import IdKind, user_store_key


class Draw(IntEnum):
    """What random numbers are for. The numbers are part of what a seed means."""

    FEEDBACK = 1  # which outcome's embedding becomes the next token
    ALLOCATION = 2  # which remainders of a stochastic allocation are rounded up


def random_stream(seed: int, draw: Draw) -> np.random.Generator:
    """The random numbers of one request for one purpose."""
    return np.random.default_rng((seed, draw))


def seed_of(user_id: int | str, time: int) -> int:
    """The seed of a request that names none, from 0 to 2^63 − 1: of its user and its time in Unix seconds.

    Users differ in what is drawn for them, and so does one user from request to request; the same request at the same
    time is answered alike. Serving, calibration and evaluation all take it.
    """
    key = user_store_key(user_id, IdKind.STRING if isinstance(user_id, str) else IdKind.INT)
    return xxhash.xxh64_intdigest(key, seed=time % (1 << 64)) >> 1
