"""Popularity: how often training users acted on an item, overall or on the surface of the request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pinrec_core.baselines.sparse_counts import SparseCounts
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.history import NO_OUTCOME, History
from pinrec_core.request import Request


class Popularity:
    """``count`` int64 ``[V]``; every user gets the same list."""

    name = "popularity"

    def __init__(self, count: np.ndarray) -> None:
        self.count = count

    @staticmethod
    def fit(histories: Iterable[History], catalogue: ItemCatalogue) -> Popularity:
        """Interactions with an outcome, by item."""
        count = np.zeros(len(catalogue), np.int64)
        for history in histories:
            row = catalogue.rows_of(history.item_key[history.outcome != NO_OUTCOME])
            np.add.at(count, row[row >= 0], 1)
        return Popularity(count)

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        """float32 ``[B, V]``, as ``Recommender.scores``."""
        return np.repeat(self.count[None].astype(np.float32), len(requests), axis=0)


class PopularityBySurface:
    """Popularity on the request's own surface; among items equally popular there, popularity overall decides.

    Only pairs (surface, item) that occur are kept, so memory follows the log's variety, not surfaces × V.
    """

    name = "popularity-by-surface"

    def __init__(self, pair: np.ndarray, count: np.ndarray, catalogue: int) -> None:
        self._pair = pair  # int64 [pairs], ascending: surface · V + row
        self._count = count  # [pairs]
        self._overall = np.bincount(pair % catalogue, weights=count, minlength=catalogue)  # [V]

    @staticmethod
    def fit(histories: Iterable[History], catalogue: ItemCatalogue) -> PopularityBySurface:
        """Interactions with an outcome, by surface and item."""
        counts = SparseCounts()
        for history in histories:
            target = history.outcome != NO_OUTCOME
            row = catalogue.rows_of(history.item_key[target])
            counts.add((history.surface[target].astype(np.int64) * len(catalogue) + row)[row >= 0])
        return PopularityBySurface(*counts.counts(), len(catalogue))

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        """float32 ``[B, V]``, as ``Recommender.scores``."""
        of_surface = {surface: self._ranks(surface) for surface in {request.surface for request in requests}}
        return np.stack([of_surface[request.surface] for request in requests])

    def _ranks(self, surface: int) -> np.ndarray:
        """An item's place in the order by (count here, count overall), which items equal in both share: ``[V]``."""
        V = len(self._overall)
        own = slice(*np.searchsorted(self._pair, [surface * V, (surface + 1) * V]))
        here = np.zeros(V)
        here[self._pair[own] - surface * V] = self._count[own]
        order = np.lexsort((self._overall, here))
        steps = np.any(np.diff(np.stack([here, self._overall])[:, order], axis=1, prepend=-1), axis=0)
        rank = np.empty(V, np.float32)
        rank[order] = np.cumsum(steps)
        return rank
