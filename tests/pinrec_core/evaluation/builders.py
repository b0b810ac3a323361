"""Cases and catalogues by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from pinrec_core.dataset.catalogue import ItemCatalogue, write_catalogue
from pinrec_core.evaluation.cases import EvaluationCase
from pinrec_core.history import History

F = 2


def history_of(keys: list[int], *, outcome: int = 0, surface: int = 0) -> History:
    """Items one second apart from time 1000 on."""
    T = len(keys)
    return History(
        item_key=np.array(keys, np.int64),
        item_type=np.zeros(T, np.uint8),
        outcome=np.full(T, outcome, np.int16),
        surface=np.full(T, surface, np.int16),
        timestamp=np.arange(1000, 1000 + T),
        feature=np.zeros((T, F), np.int8),
        scale=np.zeros(T, np.float32),
    )


def case_of(
    keys: list[int], targets: list[int], *, user: int = 0, outcomes: list[int] | None = None, surface: int = 0
) -> EvaluationCase:
    """Item keys are catalogue rows, as ``catalogue_of`` makes them."""
    Z = len(targets)
    return EvaluationCase(
        user_id=user,
        history=history_of(keys),
        seen_row=np.unique(np.array(keys, np.int64)),
        target_row=np.array(targets),
        target_outcome=np.array(outcomes or [0] * Z, np.int16),
        target_surface=np.full(Z, surface, np.int16),
        request_surface=surface,
        request_time=2000,
    )


def catalogue_of(folder: Path, items: int) -> ItemCatalogue:
    """Items whose key is their row."""
    key = np.arange(items)
    write_catalogue(
        folder, item_key=key, item_id=pa.array(key), title=pa.array([""] * items), categories=pa.array([""] * items),
        feature=np.zeros((items, F), np.int8), scale=np.zeros(items, np.float32),
    )  # fmt: skip
    return ItemCatalogue.open(folder)
