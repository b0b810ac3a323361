"""The whole history of a user at a given time: the batch view and the real-time events, merged."""

from __future__ import annotations

import time
from pathlib import Path

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import ReleaseError
from pinrec_core.history import History
from pinrec_core.representations.text_encoder import TextEncoder, text_encoder
from pinrec_core.stages.metrics import BATCH_END, CATCH_UP_SECONDS, HISTORIES, NO_METRICS, REALTIME_UP, Metrics
from signal_service.batch_view import BatchView
from signal_service.event_history import EventHistoryBuilder
from signal_service.merge import merge_histories
from signal_service.realtime import RealtimeSource
from signal_service.rocksdb_store import RocksDbEventStore

MAX_REALTIME_EVENTS = 2048
"""At most this many of a user's events since the batch are read, the newest. A batch history has the same limit."""

SHARED_WITH_SIGNALS = ("user_id_kind", "item_id_kind", "outcomes", "surfaces", "feature_width", "feature_space")
"""Fields in which a release and its signals must agree, so that numbers and vectors mean the same in both."""

SOURCE = {(True, True): "both", (True, False): "batch", (False, True): "realtime", (False, False): "none"}
"""Whether there are interactions in the batch, and since → what that is counted as."""


class UserHistories:
    """Histories for one release. Raises ``ReleaseError`` when the signals do not fit the release."""

    def __init__(
        self,
        manifest: DatasetManifest,
        catalogue: ItemCatalogue,
        view: BatchView,
        realtime: RealtimeSource | None,
        encoder: TextEncoder,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        for name in SHARED_WITH_SIGNALS:
            ours, theirs = getattr(manifest, name), getattr(view.manifest, name)
            if ours != theirs:
                raise ReleaseError(f"the signals' {name} is {theirs!r}: expected {ours!r}, the release's")
        for name in ("outcomes", "surfaces", "feature_space"):
            built, now = getattr(view.info, name), getattr(view.manifest, name)
            if built != now:
                raise ReleaseError(f"the batch view's {name} is {built!r}: expected {now!r}, run the batch job again")
        self._view = view
        self._realtime = realtime
        self.builder = EventHistoryBuilder(manifest, catalogue, encoder)
        self._none = History.empty(manifest.feature_width)
        self._metrics = metrics
        metrics.record(BATCH_END, view.info.end_time)

    @staticmethod
    def open(
        manifest: DatasetManifest,
        catalogue: ItemCatalogue,
        *,
        signals: Path,
        realtime: Path | None,
        metrics: Metrics = NO_METRICS,
    ) -> UserHistories:
        source = None if realtime is None else RealtimeSource(lambda: RocksDbEventStore.open_secondary(realtime))
        encoder = text_encoder(manifest.text_encoder)
        return UserHistories(manifest, catalogue, BatchView.open(signals), source, encoder, metrics)

    def refresh(self) -> None:
        """Make all events that are stored so far visible. Call it once per batch."""
        if self._realtime is not None:
            began = time.perf_counter()
            self._realtime.refresh()
            self._metrics.record(CATCH_UP_SECONDS, time.perf_counter() - began)
            self._metrics.record(REALTIME_UP, self._realtime.available)

    def at(self, user_key: bytes, until: int) -> History:
        """The user's interactions up to and including ``until``, oldest first. Empty for an unknown user."""
        batch = self._view.get(user_key) or self._none
        events = []
        if self._realtime is not None:
            since = self._view.info.end_time
            events = self._realtime.read(user_key, since=since, until=until + 1, limit=MAX_REALTIME_EVENTS)
        realtime = self.builder.build(events) if events else self._none
        self._metrics.record(HISTORIES, 1, SOURCE[len(batch) > 0, len(realtime) > 0])
        return merge_histories(batch, realtime, until=until)
