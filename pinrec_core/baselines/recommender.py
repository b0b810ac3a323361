"""What a counting baseline is: something that scores the whole catalogue for a request, without embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pinrec_core.request import Request


class Recommender(Protocol):
    """Scores without embeddings."""

    name: str

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        """float32 ``[B, V]``: higher is better; equal scores are ties."""
        ...


def top(recommender: Recommender, requests: Sequence[Request], n: int) -> np.ndarray:
    """The best ``n`` catalogue rows for each request, best first: int64 ``[B, min(n, V)]``. Ties go to the earlier row.

    What a request's user has seen comes last, where the catalogue holds too few other items.
    """
    score = recommender.scores(requests)
    for row, request in zip(score, requests, strict=True):
        row[request.seen_row] = -np.inf
    return np.stack([_best(row, n) for row in score])


def _best(score: np.ndarray, n: int) -> np.ndarray:
    """Rows of the ``n`` highest of ``[V]``; only what reaches the n-th score is sorted."""
    if n >= len(score):
        return np.argsort(-score, kind="stable")
    candidates = np.flatnonzero(score >= np.partition(score, len(score) - n)[len(score) - n])
    return candidates[np.argsort(-score[candidates], kind="stable")[:n]]
