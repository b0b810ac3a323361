"""What a store has to do, in plain Python: an ``EventStore`` of dictionaries."""

from __future__ import annotations

from collections.abc import Sequence

from pinrec_core.history import ItemType
from signal_service.store import Event, Span, UserEvents


class Oracle:
    def __init__(self) -> None:
        self.events: dict[tuple[bytes, int, str], Event] = {}
        self.tombstones: dict[bytes, int] = {}

    def append(self, events: Sequence[Event]) -> None:
        for e in events:
            if e.timestamp > self.tombstones.get(e.user_key, -(1 << 64)):
                self.events[e.user_key, e.timestamp, e.event_id] = e

    def remove(self, events: Sequence[Event]) -> None:
        for e in events:
            self.events.pop((e.user_key, e.timestamp, e.event_id), None)

    def forget(self, user_key: bytes, *, at: int) -> None:
        self.tombstones[user_key] = at = max(at, self.tombstones.get(user_key, at))
        self.events = {key: e for key, e in self.events.items() if e.user_key != user_key or e.timestamp > at}

    def read(self, spans: Sequence[Span]) -> list[UserEvents]:
        return [UserEvents(self._span(span), self.tombstones.get(span.user_key)) for span in spans]

    def users(self) -> set[bytes]:
        return {e.user_key for e in self.events.values()}

    def _span(self, span: Span) -> list[Event]:
        found = [
            e for e in self.events.values() if e.user_key == span.user_key and span.since <= e.timestamp < span.until
        ]
        found.sort(key=lambda e: (e.timestamp, e.event_id.encode()))
        return found[max(len(found) - span.limit, 0) :]


def event(event_id: str, timestamp: int, user: bytes = b"u", **changes: object) -> Event:
    values: dict = {"item_key": -5, "item_type": ItemType.PIN, "action": "save", "surface": "home"}
    return Event(event_id=event_id, user_key=user, timestamp=timestamp, **(values | changes))


def whole(user: bytes = b"u", *, since: int = -(1 << 63), until: int = (1 << 63) - 1, limit: int = 10**6) -> Span:
    return Span(user_key=user, since=since, until=until, limit=limit)
