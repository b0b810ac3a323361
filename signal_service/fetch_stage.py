"""Stage ``signal_fetch``: answers a request with the user's history and the request's settings, defaults filled in.

The stage knows neither the model nor Triton. Its answers are ``pinrec_core.contract.SIGNAL_FETCH.outputs``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from pinrec_core.errors import PinRecError
from pinrec_core.history import DTYPES, NO_OUTCOME, History, ItemType
from pinrec_core.ids import string_key
from pinrec_core.limits import EXCLUSIONS
from pinrec_core.release.format import Release
from pinrec_core.representations.quantization import quantize_int8
from pinrec_core.request import Request
from pinrec_core.stages.base import StageParameters, Tensors
from pinrec_core.stages.metrics import HISTORY_AGE_SECONDS, HISTORY_INTERACTIONS, NO_METRICS, Metrics
from pinrec_core.stages.packing import encode_request
from signal_service.merge import newest, seen_item_keys
from signal_service.request import RecommendRequest, RequestParser
from signal_service.user_histories import UserHistories, UserHistory

NOTHING_SEEN = np.empty(0, np.int64)


class SignalFetchStage:
    """Parses requests with ``parser`` and answers each with at most ``max_history`` positions from ``histories``."""

    def __init__(
        self, parser: RequestParser, histories: UserHistories, *, max_history: int, metrics: Metrics = NO_METRICS
    ) -> None:
        self.parse = parser.parse
        self._histories = histories
        self._max_history = max_history
        self._metrics = metrics

    @staticmethod
    def open(parameters: StageParameters) -> SignalFetchStage:
        """The stage of one release and its signals.

        Raises ``ReleaseError`` when signals and release do not belong together.
        """
        release = Release.open(parameters.release_folder)
        manifest = release.manifest
        histories = UserHistories.open(
            manifest.dataset, release.catalogue,
            signals=parameters.signals_folder, realtime=parameters.realtime, metrics=parameters.metrics,
        )  # fmt: skip
        parser = RequestParser(manifest.dataset, manifest.model, manifest.generation, time.time)
        return SignalFetchStage(parser, histories, max_history=manifest.model.max_history, metrics=parameters.metrics)

    def run(self, rows: Sequence[RecommendRequest]) -> Sequence[Tensors | PinRecError]:
        """Histories of at most ``max_history`` positions. In a search the last of them is the query.

        The stores are asked once for all rows. A store that cannot be read fails none of them: ``history_source`` says
        what a history lacks.
        """
        self._histories.refresh()
        found = self._histories.at_many([(row.user_key, row.time) for row in rows])
        return [self._answer(row, one) for row, one in zip(rows, found, strict=True)]

    def _answer(self, request: RecommendRequest, found: UserHistory) -> Tensors:
        history = found.history
        self._metrics.record(HISTORY_INTERACTIONS, len(history))
        if len(history):
            self._metrics.record(HISTORY_AGE_SECONDS, request.time - int(history.timestamp[-1]))
        seen = seen_item_keys(newest(history, EXCLUSIONS.most)) if request.exclude_seen else NOTHING_SEEN
        query = self._query_element(request)
        if query is not None:
            history = History.concatenate([newest(history, self._max_history - 1), query])
        history = newest(history, self._max_history)
        resolved = Request(
            history=history,
            surface=request.surface,
            time=request.time,
            seed=request.seed,
            budget=request.budget,
            num_items=request.num_items,
            strength=request.strength,
            deadline=request.deadline,
        )
        return {
            "history_item_key": history.item_key,
            "packed_request": encode_request(resolved),
            "seen_item_key": seen,
            "history_source": np.array([found.source.encode(), found.unavailable.encode()], np.object_),
        }

    def _query_element(self, request: RecommendRequest) -> History | None:
        """The query of a request as a history of one position, which becomes the last one (PinRec, generation)."""
        if request.query is not None:
            key = string_key(request.query)
            feature, scale = self._histories.builder.query_feature(request.query)
        elif request.query_embedding is not None:
            key = 0  # the key of a query is made from its text, which a vector does not have
            features, scales = quantize_int8(request.query_embedding[None])
            feature, scale = features[0], scales[0]
        else:
            return None
        values = {
            "item_key": key,
            "item_type": int(ItemType.QUERY),
            "outcome": NO_OUTCOME,
            "surface": request.surface,
            "timestamp": request.time,
            "feature": feature,
            "scale": scale,
        }
        return History(**{name: np.array([value], DTYPES[name]) for name, value in values.items()})
