"""Unordered recall@k (PinRec, evaluation, eq. 6), diversity and coverage.

A target is recalled when any of a user's E embeddings ranks it within its top k. The index is the whole catalogue,
searched exactly, in blocks.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from pinrec_core.retrieval.exact_search import Block, exact_top_k


def retrieved_lists(embedding: Tensor, items: Iterable[Block], k: int) -> np.ndarray:
    """The rows of the ``k`` best ``items`` for every embedding of B users, exactly: float ``[B, …, D]`` on any device
    → int64 ``[B, E, min(k, V)]``."""
    B, D = embedding.shape[0], embedding.shape[-1]
    on_host = embedding.reshape(-1, D).float().cpu().numpy()  # Faiss searches there: one copy per batch of users
    return exact_top_k(on_host, items, k).reshape(B, len(on_host) // B, -1)


def recalled(target_row: np.ndarray, retrieved: np.ndarray) -> np.ndarray:
    """Which targets ``[B, Z]`` are among the rows that the same user's lists retrieved ``[B, …]``: bool ``[B, Z]``."""
    lists = retrieved.reshape(len(retrieved), -1)
    return np.stack([np.isin(target, rows) for target, rows in zip(target_row, lists, strict=True)])


def list_ranks(target_row: np.ndarray, retrieved: np.ndarray) -> np.ndarray:
    """Places, from 0, of targets ``[B, Z]`` in the one list of their user ``[B, depth]``; ``depth`` where a list does
    not hold one: int64 ``[B, Z]``. Recall at any n up to ``depth`` is the share of places below n."""
    depth = retrieved.shape[1]
    found = retrieved[:, None, :] == target_row[:, :, None]
    return np.where(found.any(axis=2), found.argmax(axis=2), depth)


class RetrievedItems:
    """What all lists of an evaluation retrieve: which items, and into how many places."""

    def __init__(self, catalogue: int) -> None:
        self._retrieved = np.zeros(catalogue, bool)
        self._slots = 0

    def add(self, rows: np.ndarray) -> None:
        """Rows of any shape; −1 stands for none."""
        rows = rows[rows >= 0]
        self._retrieved[rows] = True
        self._slots += rows.size

    @property
    def diversity(self) -> float:
        """Share of unique items in all lists."""
        return float(self._retrieved.sum()) / max(1, self._slots)

    @property
    def coverage(self) -> float:
        """Share of the catalogue that is in any list."""
        return float(self._retrieved.mean())
