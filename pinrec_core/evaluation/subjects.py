"""What can be judged: a trained model with its index, or a counting baseline. Both answer the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from pinrec_core.baselines.recommender import Recommender, top
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.evaluation.cases import EvaluationCase
from pinrec_core.evaluation.unordered_recall import retrieved_lists
from pinrec_core.generation.compression import compress
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.validation import to_plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a subject answers B users. Rows are catalogue rows."""

    retrieved: np.ndarray  # int64 [B, E, depth]: each list best first
    served: list[np.ndarray]  # int64 per user, best first
    kept: np.ndarray  # int64 [B]: embeddings that compression kept


class Subject(Protocol):
    """Anything the held-out protocols judge. ``embeddings`` is E, its number of top-k lists per user."""

    name: str
    embeddings: int
    catalogue: ItemCatalogue  # of V items; rows are its own

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that it generates and serves with, calibrated ones included; none for a counting baseline."""
        ...

    def answer(
        self, cases: Sequence[EvaluationCase], *, depth: int, num_items: int, exclude_seen: bool = False
    ) -> Answers:
        """The top ``depth`` of every list, and the ``num_items`` that a caller would get."""
        ...

    def scores(self, cases: Sequence[EvaluationCase]) -> np.ndarray:
        """One score per catalogue row, float32 ``[B, V]``: the classic protocol ranks by it."""
        ...


class ModelSubject:
    """A model as it is served, under one budget ``[O]``: the log's own outcome mix unless given."""

    def __init__(self, name: str, indexed: IndexedModel, budget: np.ndarray | None = None) -> None:
        self.name = name
        self.indexed = indexed
        self.budget = indexed.default_budget if budget is None else budget
        generation = indexed.generation
        self.embeddings = indexed.model.config.num_conditions * generation.steps * len(generation.offsets)
        self.catalogue = indexed.catalogue

    @property
    def settings(self) -> dict[str, Any]:
        return to_plain(self.indexed.generation)

    def answer(
        self, cases: Sequence[EvaluationCase], *, depth: int, num_items: int, exclude_seen: bool = False
    ) -> Answers:
        """As ``Subject.answer``: the lists by exact search, the served items by the serving path."""
        indexed = self.indexed
        requests = [case.request(self.budget, num_items=num_items, exclude_seen=exclude_seen) for case in cases]
        embedding = indexed.generate(requests)
        served = indexed.retrieve(embedding, requests)
        return Answers(
            retrieved=retrieved_lists(embedding, indexed.index.blocks(), depth),
            served=[answer.item_row for answer in served],
            # A plan knows the outcomes that its budget asks for; this counts all. One copy to the host per batch.
            kept=(compress(embedding, indexed.generation.merge_cosine)[1] > 0).sum((1, 2)).cpu().numpy(),
        )

    def scores(self, cases: Sequence[EvaluationCase]) -> np.ndarray:
        """Expected similarity of the next item: the first step's embeddings at δ = 1, averaged over outcomes by the
        budget. With one outcome this is the plain inner product."""
        first_step = replace(self.indexed.generation, steps=1, offsets=(1,))
        embedding = replace(self.indexed, generation=first_step).generate([case.request(self.budget) for case in cases])
        first = embedding[:, :, 0].float().cpu().numpy()  # [B, O, D]
        query = np.einsum("o,bod->bd", self.budget, first).astype(np.float32)
        score = np.empty((len(query), len(self.catalogue)), np.float32)
        for row, vectors in self.indexed.index.blocks():
            score[:, row] = query @ vectors.T
        return score


class ListSubject:
    """A counting baseline: one list."""

    embeddings = 1

    def __init__(self, recommender: Recommender, catalogue: ItemCatalogue) -> None:
        self.name = recommender.name
        self.recommender = recommender
        self.catalogue = catalogue
        self.settings: dict[str, Any] = {}

    def answer(
        self, cases: Sequence[EvaluationCase], *, depth: int, num_items: int, exclude_seen: bool = False
    ) -> Answers:
        """As ``Subject.answer``."""
        requests = [case.request(exclude_seen=exclude_seen) for case in cases]
        return Answers(
            retrieved=top(self.recommender, [case.request() for case in cases], depth)[:, None],
            served=list(top(self.recommender, requests, num_items)),
            kept=np.ones(len(cases), np.int64),
        )

    def scores(self, cases: Sequence[EvaluationCase]) -> np.ndarray:
        """The recommender's own."""
        return self.recommender.scores([case.request() for case in cases])
