"""A user's history as arrays, which Spark writes, the stores keep, the server passes on and the model reads.

This module does not know where a history comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np


class ItemType(IntEnum):
    """The type of an element of a history, which consists of pins and search queries (PinRec, model)."""

    PIN = 0
    QUERY = 1


NO_OUTCOME = -1
"""The outcome of a query. A query is context and never a target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """T interactions of one user, the oldest first.

    ``item_key`` is the key of the pin or, for a query, of its text. ``outcome`` and ``surface`` are positions in the
    release's vocabularies; surface 0 is unknown. ``timestamp`` is in Unix seconds. ``feature · scale`` is the content
    vector.
    """

    item_key: np.ndarray  # int64 [T]
    item_type: np.ndarray  # uint8 [T], values of ItemType
    outcome: np.ndarray  # int16 [T], NO_OUTCOME for queries
    surface: np.ndarray  # int16 [T]
    timestamp: np.ndarray  # int64 [T]
    feature: np.ndarray  # int8 [T, F]
    scale: np.ndarray  # float32 [T]

    def __post_init__(self) -> None:
        T = len(self.item_key)
        for field in fields(self):
            values = getattr(self, field.name)
            if len(values) != T:
                raise ValueError(f"History.{field.name} has {len(values)} positions: expected {T}, as item_key has")
            if values.dtype != DTYPES[field.name]:
                raise ValueError(f"History.{field.name} is {values.dtype}: expected {DTYPES[field.name]}")

    def __len__(self) -> int:
        return len(self.item_key)

    def take(self, positions: np.ndarray | slice) -> History:
        """The interactions at ``positions`` (an index array, a boolean mask or a slice)."""
        return History(**{f.name: getattr(self, f.name)[positions] for f in fields(self)})

    @staticmethod
    def empty(feature_width: int) -> History:
        return History(
            **{name: np.empty((0, feature_width) if name == "feature" else 0, dtype) for name, dtype in DTYPES.items()}
        )

    @staticmethod
    def concatenate(parts: Sequence[History]) -> History:
        return History(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(History)})


DTYPES: dict[str, np.dtype] = {
    "item_key": np.dtype(np.int64),
    "item_type": np.dtype(np.uint8),
    "outcome": np.dtype(np.int16),
    "surface": np.dtype(np.int16),
    "timestamp": np.dtype(np.int64),
    "feature": np.dtype(np.int8),
    "scale": np.dtype(np.float32),
}
"""The element types of a history. The Spark job, the stores and the tensor contract all follow this table."""
