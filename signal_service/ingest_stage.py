"""Stage ``signal_ingest``: writes events from the API to the real-time store, where the next request sees them.

An event of the action ``contract.FORGET_USER`` is the wish of its user to be forgotten, and is carried out instead. It
says nothing about events of a later time, and hides those of an earlier one whenever they come; so it makes no
difference in which order they are written.

The stage outlives releases. So it checks events against the manifest of the signals and knows no catalogue: events may
name an item that no release has yet.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pinrec_core import limits
from pinrec_core.contract import FORGET_USER, SIGNAL_INGEST
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import ConfigError, InvalidRequestError, PinRecError, one_of, require
from pinrec_core.history import ItemType
from pinrec_core.ids import IdKind, item_keys, string_key, user_store_key
from pinrec_core.stages.base import StageParameters, Tensors, text
from pinrec_core.stages.metrics import EVENT_AGE_SECONDS, EVENTS_STORED, NO_METRICS, USERS_FORGOTTEN, Metrics
from signal_service.event_stores import open_writer
from signal_service.expiry import Sweeper
from signal_service.store import Durability, Event, EventStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingest:
    """What one request asks for: events to store, and users to forget, each with the time up to which."""

    events: Sequence[Event]
    forget: Sequence[tuple[bytes, int]] = ()


class SignalIngestStage:
    """Checks events against ``manifest`` and appends them to ``store``.

    ``clock`` gives the time in Unix seconds. With ``max_lateness`` (seconds), an event may not be further behind it.
    ``sweeper`` is closed with the stage.
    """

    def __init__(
        self,
        manifest: DatasetManifest,
        store: EventStore,
        *,
        clock: Callable[[], float] = time.time,
        max_lateness: int | None = None,
        sweeper: Sweeper | None = None,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        self._manifest = manifest
        self._store = store
        self._clock = clock
        self._max_lateness = max_lateness
        self._sweeper = sweeper
        if sweeper is not None:  # so that its thread ends, and lets go of the store, even if nobody closes the stage
            weakref.finalize(self, sweeper.close)
        self._metrics = metrics
        self._actions = (*manifest.outcomes, *manifest.query_actions, *manifest.ignored_actions)
        self._query_actions = frozenset(manifest.query_actions)
        self._known_actions = frozenset((*self._actions, FORGET_USER))
        self._surfaces = frozenset(manifest.surfaces)

    @staticmethod
    def open(parameters: StageParameters) -> SignalIngestStage:
        """The stage that writes to the store at ``parameters.realtime``, and keeps it small (``Sweeper``).

        Raises ``ConfigError`` without such a place and ``StoreError`` when another process holds the store.
        """
        if parameters.realtime is None:
            raise ConfigError("realtime=None: signal_ingest expects the place of the real-time store")
        durability = parameters.durability
        require(durability in set(Durability), "durability", durability, f"one of {', '.join(Durability)}",
                error=ConfigError)  # fmt: skip
        manifest = DatasetManifest.load(parameters.signals_folder)
        store = open_writer(parameters.realtime, durability=Durability(durability))
        sweeper = Sweeper(store, parameters.signals_folder, metrics=parameters.metrics)
        sweeper.start()
        return SignalIngestStage(
            manifest, store, max_lateness=parameters.max_lateness, sweeper=sweeper, metrics=parameters.metrics
        )

    def parse(self, tensors: Tensors) -> Ingest:
        """All events of a request. Raises ``InvalidRequestError`` for the first fault; then no event is stored."""
        Q = self._checked_length(tensors)
        now = int(self._clock())
        columns = [tensors[spec.name].tolist() for spec in SIGNAL_INGEST.inputs]
        rows = [self._event(position, [column[position] for column in columns], now) for position in range(Q)]
        forget = [(row.user_key, row.timestamp) for row in rows if row.action == FORGET_USER]
        limits.FORGETS.check(len(forget), "event_action")
        return Ingest(events=[row for row in rows if row.action != FORGET_USER], forget=forget)

    def run(self, rows: Sequence[Ingest]) -> Sequence[Tensors | PinRecError]:
        """Append the events of all requests in one write. Raises ``StoreError`` when it fails; then none is stored.

        Users are forgotten after that, so that what they did before is removed as well. Should that fail, each request
        is answered with the error, and can be repeated as a whole.
        """
        events = [event for row in rows for event in row.events]
        self._store.append(events)
        forget: dict[bytes, int] = {}
        for user_key, at in (one for row in rows for one in row.forget):
            forget[user_key] = max(at, forget.get(user_key, at))
        for user_key, at in forget.items():
            self._store.forget(user_key, at=at)
            self._metrics.record(USERS_FORGOTTEN)
        self._metrics.record(EVENTS_STORED, len(events))
        now = self._clock()
        for event in events:
            self._metrics.record(EVENT_AGE_SECONDS, max(now - event.timestamp, 0))
        return [{"stored": np.array([len(row.events) + len(row.forget)], np.int32)} for row in rows]

    def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.close()  # before the store that it works on
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

    def _event(self, position: int, values: list, now: int) -> Event:
        event_id, user_id, item_id, action, timestamp, surface, query = values

        def field(name: str) -> str:
            return f"{name}[{position}]"

        event_id = text(event_id, field("event_id"), limits.EVENT_ID)
        action = text(action, field("event_action"), limits.NAME)
        require(action in self._known_actions, field("event_action"), action, one_of(self._actions))
        surface = text(surface, field("event_surface"), limits.NAME)
        require(surface in self._surfaces, field("event_surface"), surface, one_of(self._manifest.surfaces))
        self._check_time(timestamp, field("event_timestamp"), now, forget=action == FORGET_USER)
        query = text(query, field("event_query"), limits.QUERY).strip()
        is_query = action in self._query_actions
        return Event(
            event_id=event_id,
            user_key=self._user_key(user_id, field("event_user_id")),
            item_key=self._item_key(item_id, query, action, position),
            item_type=ItemType.QUERY if is_query else ItemType.PIN,
            action=action,
            surface=surface,
            timestamp=timestamp,
            query=query,
        )

    def _check_time(self, timestamp: int, field: str, now: int, *, forget: bool) -> None:
        """A user can be forgotten as of any time in the past, however late an event may be."""
        latest = now + limits.CLOCK_SKEW_SECONDS
        require(limits.EVENT_TIME.least <= timestamp <= latest, field, timestamp,
                f"Unix seconds, above 0 and at most {latest} ({limits.CLOCK_SKEW_SECONDS} s ahead of now)")  # fmt: skip
        if self._max_lateness is not None and not forget:
            earliest = now - self._max_lateness
            require(timestamp >= earliest, field, timestamp,
                    f"at least {earliest}, events may be {self._max_lateness} s late here")  # fmt: skip

    def _user_key(self, user_id: object, field: str) -> bytes:
        kind = self._manifest.user_id_kind
        if kind is IdKind.STRING:
            user_id = _text_id(user_id, field)
            require(user_id != "", field, user_id, "a string that is not empty")
        else:
            require(isinstance(user_id, int), field, user_id, "an integer, the user ids of this dataset are int64")
        return user_store_key(user_id, kind)  # type: ignore[arg-type]

    def _item_key(self, item_id: object, query: str, action: str, position: int) -> int:
        field, query_field = f"event_item_id[{position}]", f"event_query[{position}]"
        kind = self._manifest.item_id_kind
        none: str | int = 0
        if kind is IdKind.STRING:
            item_id, none = _text_id(item_id, field), ""
        else:
            require(isinstance(item_id, int), field, item_id, "an integer, the item ids of this dataset are int64")
        if action == FORGET_USER:
            require(query == "", query_field, query, "'', to forget a user is no search")
            require(item_id == none, field, item_id, f"{none!r}, to forget a user is no action on an item")
            return 0
        if action in self._query_actions:
            require(query != "", query_field, query, "the text of the query")
            require(item_id == none, field, item_id, f"{none!r}, a query has no item")
            return string_key(query)
        require(query == "", query_field, query, "'', this action is on an item")
        require(item_id != "", field, item_id, "the id of an item")
        return int(item_keys(np.array([item_id]), kind)[0])


def _text_id(value: object, field: str) -> str:
    require(isinstance(value, (bytes, str)), field, value, "a text, ids of this kind are strings in this dataset")
    return text(value, field, limits.ID)
