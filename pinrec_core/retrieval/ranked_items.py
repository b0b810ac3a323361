"""The answer to one request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedItems:
    """Distinct items, best score first."""

    item_row: np.ndarray  # int64 [N]
    score: np.ndarray  # float32 [N]: by quota, the inner product with its embedding; else the probability
    outcome: np.ndarray  # int32 [N], the outcome that the item counts for
    embedding: np.ndarray  # int32 [N], which of the plan's embeddings brought it: of those that found it, the likeliest
    looks: int = 1  # searches that it took: those after the first were deeper and in more lists
    complete: bool = True
    """Whether these are N items, or all that the index holds. If not, the search was given up before it found N."""
