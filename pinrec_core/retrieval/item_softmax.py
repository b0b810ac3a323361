"""Inner products to probabilities over the catalogue: the softmax that the objective trained, with its learned λ.

Scores of two embeddings are comparable only as probabilities: a vague embedding is near to many items, a pointed one to
few, and the inner product alone does not tell. Probabilities are kept as logarithms, because at a large λ nearly all of
them are too small for a floating-point number, and an order of zeros is no order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pinrec_core.retrieval.item_index import ItemIndex
from pinrec_core.retrieval.lookup import Finds

REFERENCE_ITEMS = 4096
EMBEDDINGS_AT_ONCE = 512  # their products with the reference items are held at once


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalisedSoftmax:
    """log p(i | z_m) of M embeddings: λ·⟨z_m, e_i⟩ less ``largest`` and then ``log_mass`` of m.

    They are apart so that the first, which may be large, cancels before the second is subtracted.
    """

    inverse_temperature: float
    largest: np.ndarray  # float32 [M]: the largest known λ·⟨z_m, e_i⟩
    log_mass: np.ndarray  # float32 [M]: log Σ_i exp(λ·⟨z_m, e_i⟩ − largest)

    def log_probability(self, inner_product: np.ndarray, embedding: np.ndarray) -> np.ndarray:
        """Finite float32 of the shape of ``inner_product``; ``embedding`` says whose each is, and broadcasts to it."""
        logit = self.inverse_temperature * inner_product
        logit -= self.largest[embedding]
        logit -= self.log_mass[embedding]
        return logit


class ItemSoftmax:
    """p(i | z) ∝ exp(λ·⟨z, e_i⟩) over the items of an index.

    The normaliser needs every item. Up to ``reference_items`` it has them; of a larger catalogue it takes what the
    embedding found, which holds most of the mass, and an evenly spaced sample for the rest.
    """

    def __init__(self, index: ItemIndex, inverse_temperature: float, *, reference_items: int = REFERENCE_ITEMS) -> None:
        self.index = index
        self._inverse_temperature = inverse_temperature
        self._stride = -(-len(index) // reference_items)  # every so manieth row is a reference item
        self._reference = index.vectors_of(np.arange(0, len(index), self._stride))

    def normalise(self, embedding: np.ndarray, finds: Finds) -> NormalisedSoftmax:
        """The softmax of each of the embeddings ``[M, D]``, from what they found."""
        at = finds.embedding
        logit = self._inverse_temperature * finds.score
        largest, rest = self._others(embedding, finds, logit)
        found = np.bincount(at, weights=np.exp(logit - largest[at]), minlength=len(embedding))
        # The largest counts in the first sum or, where it was not found, in the second: together they cannot be 0.
        return NormalisedSoftmax(
            inverse_temperature=self._inverse_temperature,
            largest=largest,
            log_mass=np.log(found + rest).astype(np.float32),
        )

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
        others = len(self.index) - np.bincount(finds.embedding, minlength=M)
        sampled = R - np.bincount(m, minlength=M)
        return largest, mass * (others / np.maximum(1, sampled))
