"""Turns stored events into a history for one release, with its features, vocabularies and text encoder.

Events that the release does not know (their item is newer, or their action is no outcome of it) are left out. This is
no error, because the store outlives releases.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.history import DTYPES, NO_OUTCOME, History, ItemType
from pinrec_core.representations.quantization import quantize_int8
from pinrec_core.representations.text_encoder import TextEncoder
from signal_service.store import Event


class EventHistoryBuilder:
    """Builds histories from events, for one release."""

    def __init__(self, manifest: DatasetManifest, catalogue: ItemCatalogue, encoder: TextEncoder) -> None:
        self._outcome = {name: number for number, name in enumerate(manifest.outcomes)}
        self._query_actions = frozenset(manifest.query_actions)
        self._surface = {name: number for number, name in enumerate(manifest.surfaces)}
        self._catalogue = catalogue
        self._encoder = encoder
        self.feature_width = manifest.feature_width

    def build(self, events: Sequence[Event]) -> History:
        """The history of the events that this release knows, in the given order."""
        rows = self._catalogue.rows_of(np.fromiter((e.item_key for e in events), np.int64, len(events)))
        kept: list[int] = []
        outcome: list[int] = []
        for position, event in enumerate(events):
            is_query = event.item_type is ItemType.QUERY
            known = event.action in self._query_actions if is_query else event.action in self._outcome
            if known and (is_query or rows[position] >= 0):
                kept.append(position)
                outcome.append(NO_OUTCOME if is_query else self._outcome[event.action])
        feature = np.empty((len(kept), self.feature_width), np.int8)
        scale = np.empty(len(kept), np.float32)
        for place, position in enumerate(kept):
            event = events[position]
            if event.item_type is ItemType.QUERY:
                feature[place], scale[place] = self.query_feature(event.query)
            else:
                feature[place] = self._catalogue.feature[rows[position]]
                scale[place] = self._catalogue.scale[rows[position]]
        chosen = [events[position] for position in kept]
        return History(
            item_key=np.array([e.item_key for e in chosen], DTYPES["item_key"]),
            item_type=np.array([e.item_type for e in chosen], DTYPES["item_type"]),
            outcome=np.array(outcome, DTYPES["outcome"]),
            surface=np.array([self._surface.get(e.surface, 0) for e in chosen], DTYPES["surface"]),
            timestamp=np.array([e.timestamp for e in chosen], DTYPES["timestamp"]),
            feature=feature,
            scale=scale,
        )

    def query_feature(self, text: str) -> tuple[np.ndarray, np.float32]:
        """The content vector of a query, int8 ``[F]``, and its scale. Behind the text part it has zeros."""
        vector = np.zeros((1, self.feature_width), np.float32)
        vector[0, : self._encoder.width] = self._encoder.encode_one(text)
        feature, scale = quantize_int8(vector)
        return feature[0], scale[0]
