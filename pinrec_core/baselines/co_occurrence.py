"""Item-to-item co-occurrence: what others acted on shortly before or after the user's recent items.

Pairs of items within ``window`` positions of one history are counted over the training users (in the manner of
Linden, Smith & York 2003). Item j's similarity to item i is n(i, j) / n(i)^β · (p(j) / mean p)^−α, with n(i) the pairs
of i and p the popularity; each item keeps its best 200. A user's score sums the similarities to the last 30 items,
the r-th last with weight r^−½. Where users of the log come back to their items, the recent items score too, by the
share of training interactions that are such returns. Items equal in all this rank by popularity.

α, β, the window and the weights were chosen for the held-out users of three public logs, in the baseline's favour.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pinrec_core.baselines.sparse_counts import SparseCounts
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.history import NO_OUTCOME, History
from pinrec_core.request import Request

WINDOW = 10
NEIGHBOURS = 200
RECENT_ITEMS = 30
SOURCE_POWER = 0.7  # β
POPULARITY_POWER = 0.2  # α
RECENCY_POWER = 0.5
_INTERACTIONS_AT_ONCE = 1 << 18


class CoOccurrence:
    """Similar items of every item, in compressed rows: those of row i are at ``start[i]:start[i + 1]``."""

    name = "co-occurrence"

    def __init__(
        self,
        start: np.ndarray,
        neighbour: np.ndarray,
        similarity: np.ndarray,
        *,
        popularity: np.ndarray,
        return_share: float,
        catalogue: ItemCatalogue,
    ) -> None:
        self._start = start  # int64 [V + 1]
        self._neighbour = neighbour  # int64 [entries]
        self._similarity = similarity  # float64 [entries]
        # Far below any similarity: it orders the items that have none, and those that are equal.
        self._tie_break = 1e-6 * popularity / max(1.0, popularity.max(initial=0.0))
        self._return_share = return_share
        self._catalogue = catalogue

    @staticmethod
    def fit(
        histories: Iterable[History], catalogue: ItemCatalogue, *, window: int = WINDOW, neighbours: int = NEIGHBOURS
    ) -> CoOccurrence:
        """Count in one pass. Memory follows the pairs that occur (``SparseCounts``), never V × V."""
        V = len(catalogue)
        popularity = np.zeros(V)
        pairs = SparseCounts()
        returns = 0
        for user, row in _chunks(histories, catalogue):
            popularity += np.bincount(row, minlength=V)
            returns += len(row) - len(np.unique(user * V + row))
            for distance in range(1, min(window, len(row) - 1) + 1):
                a, b = row[:-distance], row[distance:]
                pair = (user[:-distance] == user[distance:]) & (a != b)
                pairs.add(np.minimum(a, b)[pair] * V + np.maximum(a, b)[pair])
        code, count = pairs.counts()
        first, second = code // V, code % V
        item, other = np.concatenate([first, second]), np.concatenate([second, first])
        count = np.concatenate([count, count])
        n = np.bincount(item, weights=count, minlength=V)
        damping = (np.maximum(popularity, 1) / max(popularity.mean(), 1e-12)) ** -POPULARITY_POWER
        similarity = count / n[item] ** SOURCE_POWER * damping[other]

        order = np.lexsort((other, -similarity, item))
        item, other, similarity = item[order], other[order], similarity[order]
        begins = np.searchsorted(item, np.arange(V))
        best = np.arange(len(item)) - begins[item] < neighbours
        return CoOccurrence(
            np.searchsorted(item[best], np.arange(V + 1)),
            other[best],
            similarity[best],
            popularity=popularity,
            return_share=returns / max(1.0, popularity.sum()),
            catalogue=catalogue,
        )

    def similar(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows most similar to ``row`` and their similarities, best first."""
        span = slice(self._start[row], self._start[row + 1])
        return self._neighbour[span], self._similarity[span]

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        """float32 ``[B, V]``, as ``Recommender.scores``."""
        return np.stack([self._scores(request.history) for request in requests]).astype(np.float32)

    def _scores(self, history: History) -> np.ndarray:
        row = self._catalogue.rows_of(history.item_key[history.outcome != NO_OUTCOME])
        recent = row[row >= 0][-RECENT_ITEMS:]
        weight = np.arange(len(recent), 0, -1.0) ** -RECENCY_POWER
        score = self._tie_break.copy()
        np.add.at(score, recent, self._return_share * weight)
        for item, share in zip(recent, weight, strict=True):
            neighbour, similarity = self.similar(item)
            score[neighbour] += share * similarity  # the neighbours of one item are distinct
        return score


def _chunks(histories: Iterable[History], catalogue: ItemCatalogue) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(user number, catalogue row) of the interactions with an outcome; whole users at a time."""
    users: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    gathered = 0
    for history in histories:
        row = catalogue.rows_of(history.item_key[history.outcome != NO_OUTCOME])
        rows.append(row[row >= 0])
        users.append(np.full(len(rows[-1]), len(users)))
        gathered += len(rows[-1])
        if gathered >= _INTERACTIONS_AT_ONCE:
            yield np.concatenate(users), np.concatenate(rows)
            users, rows, gathered = [], [], 0
    if rows:
        yield np.concatenate(users), np.concatenate(rows)
