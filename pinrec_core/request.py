"""A request as a value: everything that an answer depends on, with all defaults filled in.

Serving, evaluation, calibration and benchmarks all use it. This module knows no model and no index.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pinrec_core.deadline import NEVER, Deadline
from pinrec_core.history import History


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request for N items for one user."""

    history: History
    surface: int  # where the items will be shown, as a position in the release's vocabulary; 0 is unknown
    time: int  # Unix seconds
    seed: int  # of the random numbers for this request, so that its answer does not depend on its batch
    budget: np.ndarray  # float [O], with sum 1; a single 1 if the model is not conditioned on outcomes
    num_items: int  # N
    strength: float | None = None  # of every outcome's steering, from 0; None for what the release has calibrated
    deadline: Deadline = NEVER
    """After which nobody waits for the answer."""
    seen_row: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """The catalogue rows, int64 ``[X]``, of items that the user has seen and that must not be recommended again."""
