"""Turns stored events into a history for one release, with its features, vocabularies and text encoder.

Events that the release does not know are left out and counted. This is no error, because the store outlives releases.
There are two kinds:

- The action is no outcome of the release.
- The item is not in its catalogue, so there is no content feature. Its ID embedding alone would say nothing: the hashed
  tables answer every key, but for one that training has not seen they answer with rows of other items or with rows as
  they were initialised. Training has seen no item without a row in the catalogue either, since preparation sets such
  events aside (``unknown_item``). An item that the user's own batch history holds is kept, with the feature that it has
  there: that is what the next batch will make of the event.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.history import DTYPES, NO_OUTCOME, History, ItemType
from pinrec_core.representations.quantization import quantize_int8
from pinrec_core.representations.text_encoder import TextEncoder
from pinrec_core.stages.metrics import NO_METRICS, REALTIME_EVENTS, Metrics
from signal_service.store import Event

REMEMBERED_QUERIES = 4096
"""Queries of stored events whose vectors are remembered, because they are read again with every request of the user."""


class EventHistoryBuilder:
    """Builds histories from events, for one release."""

    def __init__(
        self,
        manifest: DatasetManifest,
        catalogue: ItemCatalogue,
        encoder: TextEncoder,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        self._outcome = {name: number for number, name in enumerate(manifest.outcomes)}
        self._query_actions = frozenset(manifest.query_actions)
        self._surface = {name: number for number, name in enumerate(manifest.surfaces)}
        self._catalogue = catalogue
        self._encoder = encoder
        self._metrics = metrics
        self._remembered = lru_cache(REMEMBERED_QUERIES)(self.query_feature)
        self.feature_width = manifest.feature_width

    def build(self, events: Sequence[Event], batch: History | None = None) -> History:
        """The history of the events that this release knows, in the given order.

        ``batch`` is the user's batch history, whose items are known as well.
        """
        named = [(event, outcome) for event in events if (outcome := self._outcome_of(event)) is not None]
        item_key = np.fromiter((event.item_key for event, _ in named), np.int64, len(named))
        is_query = np.fromiter((outcome == NO_OUTCOME for _, outcome in named), bool, len(named))
        row = self._catalogue.rows_of(item_key)
        known = is_query | (row >= 0)
        in_batch = np.full(len(named), -1, np.int64)
        if batch is not None and not known.all():
            in_batch[~known] = _positions_of(item_key[~known], batch)
        kept = np.flatnonzero(known | (in_batch >= 0))
        self._count(no_outcome=len(events) - len(named), unknown_item=len(named) - len(kept))
        feature, scale = self._features([named[i][0] for i in kept], is_query[kept], row[kept])
        for place in np.flatnonzero(in_batch[kept] >= 0):
            assert batch is not None
            position = in_batch[kept[place]]
            feature[place], scale[place] = batch.feature[position], batch.scale[position]
        chosen = [named[i] for i in kept]
        return History(
            item_key=item_key[kept],
            item_type=np.where(is_query[kept], ItemType.QUERY, ItemType.PIN).astype(DTYPES["item_type"]),
            outcome=np.array([outcome for _, outcome in chosen], DTYPES["outcome"]),
            surface=np.array([self._surface.get(event.surface, 0) for event, _ in chosen], DTYPES["surface"]),
            timestamp=np.array([event.timestamp for event, _ in chosen], DTYPES["timestamp"]),
            feature=feature,
            scale=scale,
        )

    def query_feature(self, text: str) -> tuple[np.ndarray, np.float32]:
        """The content vector of a query, int8 ``[F]``, and its scale. Behind the text part it has zeros."""
        vector = np.zeros((1, self.feature_width), np.float32)
        vector[0, : self._encoder.width] = self._encoder.encode_one(text)
        feature, scale = quantize_int8(vector)
        return feature[0], scale[0]

    def _outcome_of(self, event: Event) -> int | None:
        """The number of the event's outcome, None where the release does not know the action."""
        if event.item_type is ItemType.QUERY:
            return NO_OUTCOME if event.action in self._query_actions else None
        return self._outcome.get(event.action)

    def _features(
        self, events: Sequence[Event], is_query: np.ndarray, row: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """int8 ``[n, F]`` and float32 ``[n]`` for pins in the catalogue and for queries; anything for other pins."""
        feature = np.zeros((len(events), self.feature_width), DTYPES["feature"])
        scale = np.zeros(len(events), DTYPES["scale"])
        pins = np.flatnonzero(~is_query & (row >= 0))
        feature[pins], scale[pins] = self._catalogue.feature[row[pins]], self._catalogue.scale[row[pins]]
        for place in np.flatnonzero(is_query):
            feature[place], scale[place] = self._remembered(events[place].query)
        return feature, scale

    def _count(self, **left_out: int) -> None:
        for use, events in left_out.items():
            if events:
                self._metrics.record(REALTIME_EVENTS, events, use)


def _positions_of(item_key: np.ndarray, history: History) -> np.ndarray:
    """Keys, int64 ``[n]`` → a position of each in the history as a pin, −1 for one that it does not hold."""
    pins = np.flatnonzero(history.item_type == ItemType.PIN)
    if not len(pins):
        return np.full(len(item_key), -1, np.int64)
    pins = pins[np.argsort(history.item_key[pins], kind="stable")]
    keys = history.item_key[pins]
    place = np.minimum(np.searchsorted(keys, item_key), len(keys) - 1)
    return np.where(keys[place] == item_key, pins[place], -1)
