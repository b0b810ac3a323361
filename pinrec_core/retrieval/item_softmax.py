"""Inner products to probabilities over the catalogue: the softmax that the objective trained, with its learned λ.

Scores of two embeddings are comparable only as probabilities: a vague embedding is near to many items, a pointed one to
few, and the inner product alone does not tell. Probabilities are kept as logarithms, because at a large λ nearly all of
them are too small for a floating-point number, and an order of zeros is no order.
"""

from __future__ import annotations

import numpy as np

from pinrec_core.retrieval.item_index import ItemIndex

REFERENCE_ITEMS = 4096


class ItemSoftmax:
    """p(i | z) ∝ exp(λ·⟨z, e_i⟩) over the items of an index.

    The normaliser needs every item. Up to ``reference_items`` it has them; of a larger catalogue it takes the
    candidates, which hold most of the mass, and an evenly spaced sample for the rest.
    """

    def __init__(self, index: ItemIndex, inverse_temperature: float, *, reference_items: int = REFERENCE_ITEMS) -> None:
        self._index = index
        self._inverse_temperature = inverse_temperature
        self._row = np.unique(np.linspace(0, len(index) - 1, num=min(reference_items, len(index)), dtype=np.int64))
        self._reference = index.reconstruct(self._row)

    def log_probability(self, embedding: np.ndarray, item_row: np.ndarray) -> np.ndarray:
        """float32 ``[M, D]`` and rows int64 ``[U]``, ascending and distinct → finite float32 ``[M, U]``."""
        V, U = len(self._index), len(item_row)
        logit = self._inverse_temperature * (embedding @ self._index.reconstruct(item_row).T)  # [M, U]
        reference = self._inverse_temperature * (embedding @ self._reference.T)  # [M, R]
        # Relative to the largest of their row, so that the largest exponential is 1 and none overflows.
        largest = np.maximum(logit.max(axis=1, initial=-np.inf), reference.max(axis=1))[:, None]
        logit -= largest
        reference -= largest
        np.exp(reference, out=reference)
        # All of the reference, then what counts: copying the others' vectors would cost more than their products.
        other = self._not_among(item_row)
        rest = (reference @ other.astype(np.float32)) * ((V - U) / max(1, int(other.sum())))
        # The largest counts in the first sum or, where it is no candidate, in the second: together they cannot be 0.
        return logit - np.log(np.exp(logit).sum(axis=1) + rest)[:, None]

    def _not_among(self, item_row: np.ndarray) -> np.ndarray:
        """Which reference items are none of the ascending ``item_row``: bool ``[R]``."""
        other = np.ones(len(self._row), bool)
        place = np.minimum(np.searchsorted(self._row, item_row), len(self._row) - 1)
        other[place[self._row[place] == item_row]] = False
        return other
