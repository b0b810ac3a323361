"""Exact search by inner product, over blocks of the catalogue: what approximate search is judged against.

Scores are the matrix products of all queries with one block at a time, so memory grows with the queries and with the
block, not with queries times catalogue.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import faiss
import numpy as np

Block = tuple[np.ndarray, np.ndarray]
"""Rows int64 ``[n]`` and their vectors float32 ``[n, D]``."""


BLOCK_ITEMS = 65_536


def blocks_of(vectors: np.ndarray) -> Iterator[Block]:
    """An array of all vectors, float32 ``[V, D]`` by row, as blocks."""
    for start in range(0, len(vectors), BLOCK_ITEMS):
        part = vectors[start : start + BLOCK_ITEMS]
        yield np.arange(start, start + len(part)), part


def exact_top_k(query: np.ndarray, blocks: Iterable[Block], k: int) -> np.ndarray:
    """The rows of the ``k`` best items of each query, best first: float32 ``[Q, D]`` → int64 ``[Q, min(k, V)]``.

    ``blocks`` hold each row once, in any order. Of equal scores any may come first.
    """
    query = np.ascontiguousarray(query, np.float32)
    best = np.empty((len(query), 0), np.float32)
    best_row = np.empty((len(query), 0), np.int64)
    for row, vectors in blocks:
        score, place = faiss.knn(query, vectors, min(k, len(row)), metric=faiss.METRIC_INNER_PRODUCT)
        best = np.concatenate([best, score], axis=1)
        best_row = np.concatenate([best_row, row[place]], axis=1)
        if best.shape[1] > k:
            kept = np.argpartition(-best, k - 1, axis=1)[:, :k]
            best = np.take_along_axis(best, kept, axis=1)
            best_row = np.take_along_axis(best_row, kept, axis=1)
    return np.take_along_axis(best_row, np.argsort(-best, axis=1, kind="stable"), axis=1)


def recall(exact_row: np.ndarray, found_row: np.ndarray) -> float:
    """The share of the rows ``exact_row`` ``[Q, k]`` that are among those found for the same query, ``[Q, …]``."""
    return float(np.mean([np.isin(exact, found).mean() for exact, found in zip(exact_row, found_row, strict=True)]))
