"""A request as a value: everything that decides an answer, every default filled in.

The serving stages, evaluation, calibration, benchmarks and a simulator all ask with it. It knows no model, no index and
nobody who asks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pinrec_core.history import History


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One user's request for N items."""

    history: History
    surface: int  # where the items will be shown, a number of the release's vocabulary; 0 is unknown
    time: int  # Unix seconds
    seed: int  # of the request's random draws, so that its answer does not depend on its batch
    budget: np.ndarray  # float [O], summing to 1; a single 1 where the model is not conditioned on outcomes
    num_items: int  # N
    seen_row: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """Catalogue rows, int64 ``[X]``, of what the user has seen and must not be given again."""
