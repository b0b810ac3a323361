"""What a counting baseline is to the evaluation: something that scores the whole catalogue for a user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pinrec_core.evaluation.cases import EvaluationCase


class Recommender(Protocol):
    """Scores without embeddings."""

    name: str

    def scores(self, cases: Sequence[EvaluationCase]) -> np.ndarray:
        """float32 ``[B, V]``: higher is better; equal scores are ties."""
        ...


def top(recommender: Recommender, cases: Sequence[EvaluationCase], n: int, *, exclude_seen: bool = False) -> np.ndarray:
    """The best ``n`` catalogue rows of each case, best first: int64 ``[B, min(n, V)]``. Ties go to the earlier row.

    With ``exclude_seen`` the items of the history come last, where the catalogue holds too few others.
    """
    score = recommender.scores(cases)
    if exclude_seen:
        for row, case in zip(score, cases, strict=True):
            row[case.seen_row] = -np.inf
    return np.stack([_best(row, n) for row in score])


def _best(score: np.ndarray, n: int) -> np.ndarray:
    """Rows of the ``n`` highest of ``[V]``; only what reaches the n-th score is sorted."""
    if n >= len(score):
        return np.argsort(-score, kind="stable")
    candidates = np.flatnonzero(score >= np.partition(score, len(score) - n)[len(score) - n])
    return candidates[np.argsort(-score[candidates], kind="stable")[:n]]
