"""An index over random directions."""

from __future__ import annotations

import numpy as np
import pytest

from pinrec_core.retrieval.item_index import ItemIndex


def unit(n: int, D: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def index() -> ItemIndex:
    return ItemIndex.build(unit(600, 8, 0), nprobe=4, flat_items=0)
