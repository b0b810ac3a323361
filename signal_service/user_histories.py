"""The whole history of a user at a given time: the batch view and the real-time events, merged.

No part that fails makes a request fail: the other part is served, or an empty history, and ``UserHistory`` says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import ReleaseError, StoreError
from pinrec_core.history import History
from pinrec_core.representations.text_encoder import TextEncoder, text_encoder
from pinrec_core.stages.metrics import (
    CATCH_UP_SECONDS,
    HISTORIES,
    HISTORIES_DEGRADED,
    NO_METRICS,
    REALTIME_EVENTS,
    REALTIME_READS_CUT,
    REALTIME_UP,
    Metrics,
)
from pinrec_core.store_location import StoreLocation
from signal_service.batch_view import BatchView
from signal_service.current_view import CurrentView
from signal_service.event_history import EventHistoryBuilder
from signal_service.event_stores import open_reader
from signal_service.merge import cut_at, merge_histories
from signal_service.realtime import RealtimeSource
from signal_service.store import Event, Span, UserEvents

log = logging.getLogger(__name__)

MAX_REALTIME_EVENTS = 2048
"""At most this many of a user's stored events are read, the newest; more where a batch history holds more."""

LOG_SECONDS = 60.0
"""Between two log lines about users whose batch histories cannot be read."""

MAX_FORGOTTEN = 1 << 20
"""Users who are remembered as forgotten while the real-time store, which knows them all, cannot be read."""

SHARED_WITH_SIGNALS = ("user_id_kind", "item_id_kind", "outcomes", "surfaces", "feature_width", "feature_space")
"""Fields in which a release and its signals must agree, so that numbers and vectors mean the same in both."""

SOURCE = {(True, True): "both", (True, False): "batch", (False, True): "realtime", (False, False): "none"}
"""Whether something is of the batch, and of the real-time part → the word for it in ``contract.SOURCES``."""

UNAVAILABLE = SOURCE | {(False, False): ""}
"""The same for parts that could not be read → the word in ``contract.PARTS``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserHistory:
    """A history, where its interactions come from, and which part of the signals could not be read for it."""

    history: History
    source: str  # one of contract.SOURCES
    unavailable: str  # one of contract.PARTS


def check_view(manifest: DatasetManifest, view: BatchView) -> None:
    """Raises ``ReleaseError`` when a batch view does not fit the release of ``manifest``."""
    for name in SHARED_WITH_SIGNALS:
        ours, theirs = getattr(manifest, name), getattr(view.manifest, name)
        if ours != theirs:
            raise ReleaseError(f"the signals' {name} is {theirs!r}: expected {ours!r}, the release's")
    for name in ("outcomes", "surfaces", "feature_space"):
        built, now = getattr(view.info, name), getattr(view.manifest, name)
        if built != now:
            raise ReleaseError(f"the batch view's {name} is {built!r}: expected {now!r}, run the batch job again")


class UserHistories:
    """Histories for one release, from the batch view that is current and from ``realtime``.

    ``realtime`` is None where a service has no real-time store. ``monotonic`` is a clock in seconds.
    """

    def __init__(
        self,
        manifest: DatasetManifest,
        catalogue: ItemCatalogue,
        current: CurrentView,
        realtime: RealtimeSource | None,
        encoder: TextEncoder,
        metrics: Metrics = NO_METRICS,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._current = current
        self._realtime = realtime
        self.builder = EventHistoryBuilder(manifest, catalogue, encoder, metrics)
        self._none = History.empty(manifest.feature_width)
        self._metrics = metrics
        self._monotonic = monotonic
        self._forgotten: dict[bytes, int] = {}
        self._unlogged = 0
        self._log_at = float("-inf")

    @staticmethod
    def open(
        manifest: DatasetManifest,
        catalogue: ItemCatalogue,
        *,
        signals: Path,
        realtime: StoreLocation | None,
        metrics: Metrics = NO_METRICS,
    ) -> UserHistories:
        """Raises ``ReleaseError`` when the signals do not fit the release."""
        source = None if realtime is None else RealtimeSource(lambda: open_reader(realtime))
        current = CurrentView(signals, lambda view: check_view(manifest, view), metrics)
        encoder = text_encoder(manifest.text_encoder)
        return UserHistories(manifest, catalogue, current, source, encoder, metrics)

    def refresh(self) -> None:
        """Make all events that are stored so far visible, and take the newest batch. Call it once per batch."""
        self._current.refresh()
        if self._realtime is not None:
            began = time.perf_counter()
            self._realtime.refresh()
            self._metrics.record(CATCH_UP_SECONDS, time.perf_counter() - began)
            self._metrics.record(REALTIME_UP, self._realtime.available)

    def at_many(self, asked: Sequence[tuple[bytes, int]]) -> list[UserHistory]:
        """For each user key and time, the user's interactions up to and including that time, oldest first.

        It is empty for an unknown user. The real-time store is asked once for all.
        """
        view = self._current.view  # one batch for all, from which everything below is decided
        stored = self._stored(view, asked)
        return [
            self._history(view, user_key, until, events)
            for (user_key, until), events in zip(asked, stored, strict=True)
        ]

    def _stored(self, view: BatchView, asked: Sequence[tuple[bytes, int]]) -> Sequence[UserEvents | None]:
        """What the real-time store holds of each user since the batch's window began; None while it cannot be read.

        A batch holds what had come by the time that it was made. So an event from before its end may be late and
        absent from it, and everything in the window is read.
        """
        if self._realtime is None:
            return [UserEvents()] * len(asked)
        since = view.info.start_time or 0
        limit = max(MAX_REALTIME_EVENTS, view.info.max_interactions_per_user)
        spans = [Span(user_key=key, since=since, until=until + 1, limit=limit) for key, until in asked]
        stored = self._realtime.read(spans)
        if not self._realtime.available:
            return [None] * len(asked)
        cut = sum(len(one.events) >= limit for one in stored)
        if cut:
            self._metrics.record(REALTIME_READS_CUT, cut)
        return stored

    def _history(self, view: BatchView, user_key: bytes, until: int, stored: UserEvents | None) -> UserHistory:
        batch = self._batch_part(view, user_key)
        most = view.info.max_interactions_per_user
        after = self._forgotten_at(user_key, stored)
        since = None if batch is None else cut_at(batch, most)  # not even of a part that is forgotten
        events = [] if stored is None else _after(stored.events, since, after)
        realtime = self.builder.build(events, batch) if events else self._none
        merged = merge_histories(batch or self._none, realtime, until=until, after=after, most=most)
        source = SOURCE[merged.from_batch > 0, merged.from_realtime > 0]
        unavailable = UNAVAILABLE[batch is None, stored is None]
        self._metrics.record(HISTORIES, 1, source)
        if unavailable:
            self._metrics.record(HISTORIES_DEGRADED, 1, unavailable)
        if stored is not None and stored.events:
            self._metrics.record(REALTIME_EVENTS, merged.from_realtime, "served")
            repeated = len(stored.events) - len(events) + len(realtime) - merged.from_realtime
            self._metrics.record(REALTIME_EVENTS, repeated, "repeated")
        return UserHistory(history=merged.history, source=source, unavailable=unavailable)

    def _batch_part(self, view: BatchView, user_key: bytes) -> History | None:
        """The user's batch history, empty for a user whom the batch does not know; None where it cannot be read."""
        try:
            batch = view.get(user_key)
            if batch is None:
                return self._none
            _, F = batch.feature.shape
            if F != self.builder.feature_width:
                raise StoreError(f"a batch history has features of width {F}: expected {self.builder.feature_width}")
        except StoreError as error:
            self._log_unreadable(error)
            return None
        return batch

    def _forgotten_at(self, user_key: bytes, stored: UserEvents | None) -> int | None:
        """Up to when the user is to be forgotten. It is remembered, because it holds without the store as well."""
        if stored is not None and stored.forgotten_at is not None:
            if len(self._forgotten) >= MAX_FORGOTTEN:
                self._forgotten.pop(next(iter(self._forgotten)))
            self._forgotten[user_key] = stored.forgotten_at
        return self._forgotten.get(user_key)

    def _log_unreadable(self, error: StoreError) -> None:
        self._unlogged += 1
        if self._monotonic() >= self._log_at:
            self._log_at = self._monotonic() + LOG_SECONDS
            log.error("%d histories were read without their batch part since the last such line: %s",
                      self._unlogged, error)  # fmt: skip
            self._unlogged = 0


def _after(events: Sequence[Event], *times: int | None) -> list[Event]:
    """The events after all of the times, in order of time; those of the same second in order of their ids."""
    latest = max((time for time in times if time is not None), default=None)
    kept = [event for event in events if latest is None or event.timestamp > latest]
    kept.sort(key=lambda event: (event.timestamp, event.event_id.encode("utf-8")))  # as a store sorts its keys
    return kept
