"""Inner products to probabilities over the catalogue: the softmax that the objective trained, with its learned λ.

Scores of two embeddings are comparable only as probabilities: a vague embedding is near to many items, a pointed one to
few, and the inner product alone does not tell. Probabilities are kept as logarithms, because at a large λ nearly all of
them are too small for a floating-point number, and an order of zeros is no order.
"""

from __future__ import annotations

import numpy as np

from pinrec_core.retrieval.item_index import ItemIndex
from pinrec_core.retrieval.lookup import Finds

REFERENCE_ITEMS = 4096
EMBEDDINGS_AT_ONCE = 512  # their products with the reference items are held at once


class ItemSoftmax:
    """p(i | z) ∝ exp(λ·⟨z, e_i⟩) over the items of an index.

    The normaliser needs every item. Up to ``reference_items`` it has them; of a larger catalogue it takes what the
    embedding found, which holds most of the mass, and an evenly spaced sample for the rest.
    """

    def __init__(self, index: ItemIndex, inverse_temperature: float, *, reference_items: int = REFERENCE_ITEMS) -> None:
        self._items = len(index)
        self._inverse_temperature = inverse_temperature
        self._stride = -(-len(index) // reference_items)  # every so manieth row is a reference item
        self._reference = index.reconstruct(np.arange(0, len(index), self._stride))

    def log_probability(self, embedding: np.ndarray, finds: Finds) -> np.ndarray:
        """log p(item | embedding) of what the embeddings ``[M, D]`` found: finite float32 ``[P]``."""
        logit = self._inverse_temperature * finds.score
        at = finds.embedding
        # Relative to the largest of their embedding, so that the largest exponential is 1 and none overflows.
        largest, rest = self._others(embedding, finds, logit)
        logit -= largest[at]
        found = np.bincount(at, weights=np.exp(logit), minlength=len(embedding))
        # The largest counts in the first sum or, where it was not found, in the second: together they cannot be 0.
        return logit - np.log(found + rest).astype(np.float32)[at]

    def _others(self, embedding: np.ndarray, finds: Finds, logit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The largest logit of each embedding, float32 ``[M]``, and the mass of what it did not find over the
        exponential of that, float64 ``[M]``: one product of all embeddings with the reference items."""
        M, R = len(embedding), len(self._reference)
        largest = np.full(M, -np.inf, np.float32)
        np.maximum.at(largest, finds.embedding, logit)
        mass = np.empty(M)
        is_reference = finds.item_row % self._stride == 0
        m, place = finds.embedding[is_reference], finds.item_row[is_reference] // self._stride
        for start in range(0, M, EMBEDDINGS_AT_ONCE):
            part = slice(start, min(start + EMBEDDINGS_AT_ONCE, M))
            reference = (self._inverse_temperature * embedding[part]) @ self._reference.T
            largest[part] = np.maximum(largest[part], reference.max(axis=1))
            here = (m >= part.start) & (m < part.stop)
            reference[m[here] - start, place[here]] = -np.inf  # what was found is counted as such
            reference -= largest[part, None]
            mass[part] = np.exp(reference, out=reference).sum(axis=1, dtype=np.float64)
        others = self._items - np.bincount(finds.embedding, minlength=M)
        sampled = R - np.bincount(m, minlength=M)
        return largest, mass * (others / np.maximum(1, sampled))
