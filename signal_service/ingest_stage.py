"""Stage ``signal_ingest``: writes events from the API to the real-time store, where the next request sees them.

The stage outlives releases. So it checks events against the manifest of the signals and knows no catalogue: events may
name an item that no release has yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from pinrec_core import limits
from pinrec_core.contract import SIGNAL_INGEST
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import ConfigError, InvalidRequestError, PinRecError, one_of, require
from pinrec_core.history import ItemType
from pinrec_core.ids import IdKind, item_keys, string_key, user_store_key
from pinrec_core.stages.base import StageParameters, Tensors, text
from pinrec_core.stages.metrics import EVENT_AGE_SECONDS, EVENTS_STORED, NO_METRICS, Metrics
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Event, EventStore


class SignalIngestStage:
    """Checks events against ``manifest`` and appends them to ``store``. ``clock`` gives the time in Unix seconds."""

    def __init__(
        self,
        manifest: DatasetManifest,
        store: EventStore,
        *,
        clock: Callable[[], float] = time.time,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        self._manifest = manifest
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._actions = (*manifest.outcomes, *manifest.query_actions, *manifest.ignored_actions)
        self._surfaces = frozenset(manifest.surfaces)

    @staticmethod
    def open(parameters: StageParameters) -> SignalIngestStage:
        """The stage that writes to the store in ``parameters.realtime``.

        Raises ``ConfigError`` without such a folder and ``StoreError`` when another process holds the store.
        """
        if parameters.realtime is None:
            raise ConfigError("realtime=None: signal_ingest expects the folder of the real-time store")
        manifest = DatasetManifest.load(parameters.signals_folder)
        store = RocksDbEventStore.open_primary(parameters.realtime)
        return SignalIngestStage(manifest, store, metrics=parameters.metrics)

    def parse(self, tensors: Tensors) -> list[Event]:
        """All events of a request. Raises ``InvalidRequestError`` for the first fault; then no event is stored."""
        Q = self._checked_length(tensors)
        latest = int(self._clock()) + limits.CLOCK_SKEW_SECONDS
        columns = [tensors[spec.name].tolist() for spec in SIGNAL_INGEST.inputs]
        return [self._event(position, [column[position] for column in columns], latest) for position in range(Q)]

    def run(self, rows: Sequence[list[Event]]) -> Sequence[Tensors | PinRecError]:
        """Append the events of all requests in one write. Raises ``StoreError`` when it fails; then none is stored."""
        stored = [event for events in rows for event in events]
        self._store.append(stored)
        self._metrics.record(EVENTS_STORED, len(stored))
        now = self._clock()
        for event in stored:
            self._metrics.record(EVENT_AGE_SECONDS, max(now - event.timestamp, 0))
        return [{"stored": np.array([len(events)], np.int32)} for events in rows]

    def close(self) -> None:
        self._store.close()

    def _checked_length(self, tensors: Tensors) -> int:
        """The number of events Q, which all fields must agree on."""
        Q: int | None = None
        for spec in SIGNAL_INGEST.inputs:
            values = tensors.get(spec.name)
            if values is None:
                raise InvalidRequestError(f"{spec.name} is missing: expected one value per event")
            if values.ndim != 1 or (Q is not None and len(values) != Q):
                expected = "[Q]" if Q is None else f"[{Q}], as event_id has"
                raise InvalidRequestError(f"{spec.name} has shape {list(values.shape)}: expected {expected}")
            Q = len(values)
        Q = Q or 0
        limits.EVENTS.check(Q, "event_id")
        limits.check_request_bytes(tensors)
        return Q

    def _event(self, position: int, values: list, latest: int) -> Event:
        event_id, user_id, item_id, action, timestamp, surface, query = values

        def field(name: str) -> str:
            return f"{name}[{position}]"

        event_id = text(event_id, field("event_id"), limits.EVENT_ID)
        action = text(action, field("event_action"), limits.NAME)
        require(action in self._actions, field("event_action"), action, one_of(self._actions))
        surface = text(surface, field("event_surface"), limits.NAME)
        require(surface in self._surfaces, field("event_surface"), surface, one_of(self._manifest.surfaces))
        require(limits.EVENT_TIME.least <= timestamp <= latest, field("event_timestamp"), timestamp,
                f"Unix seconds, above 0 and at most {latest} ({limits.CLOCK_SKEW_SECONDS} s ahead of now)")  # fmt: skip
        query = text(query, field("event_query"), limits.QUERY).strip()
        is_query = action in self._manifest.query_actions
        return Event(
            event_id=event_id,
            user_key=self._user_key(user_id, field("event_user_id")),
            item_key=self._item_key(item_id, query, is_query, position),
            item_type=ItemType.QUERY if is_query else ItemType.PIN,
            action=action,
            surface=surface,
            timestamp=timestamp,
            query=query,
        )

    def _user_key(self, user_id: object, field: str) -> bytes:
        kind = self._manifest.user_id_kind
        if kind is IdKind.STRING:
            user_id = text(user_id, field, limits.ID)
            require(user_id != "", field, user_id, "a string that is not empty")
        return user_store_key(user_id, kind)  # type: ignore[arg-type]

    def _item_key(self, item_id: object, query: str, is_query: bool, position: int) -> int:
        field = f"event_item_id[{position}]"
        kind = self._manifest.item_id_kind
        none: str | int = 0
        if kind is IdKind.STRING:
            item_id, none = text(item_id, field, limits.ID), ""
        if is_query:
            require(query != "", f"event_query[{position}]", query, "the text of the query")
            require(item_id == none, field, item_id, f"{none!r}, a query has no item")
            return string_key(query)
        require(query == "", f"event_query[{position}]", query, "'', this action is on an item")
        require(item_id != "", field, item_id, "the id of an item")
        return int(item_keys(np.array([item_id]), kind)[0])
