"""An ``EventStore`` in memory, as short as its interface allows, and ways for it to fail."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from pinrec_core.errors import StoreError
from signal_service.store import Event, Span, UserEvents


class MemoryEventStore:
    """Keeps events by user, time and id. While ``down`` is set, every read fails."""

    def __init__(self) -> None:
        self.events: dict[bytes, dict[tuple[int, bytes], Event]] = defaultdict(dict)
        self.forgotten_at: dict[bytes, int] = {}
        self.down = False
        self.reads: list[Sequence[Span]] = []

    def refresh(self) -> None:
        self._check()

    def read(self, spans: Sequence[Span]) -> list[UserEvents]:
        self._check()
        self.reads.append(spans)
        return [self._read(span) for span in spans]

    def _read(self, span: Span) -> UserEvents:
        gone = self.forgotten_at.get(span.user_key)
        first = span.since if gone is None else max(span.since, gone + 1)
        own = self.events.get(span.user_key, {})
        kept = [own[key] for key in sorted(own) if first <= key[0] < span.until]
        return UserEvents(kept[max(len(kept) - span.limit, 0) :], gone)

    def user_keys(self) -> Iterator[bytes]:
        return iter([key for key, events in self.events.items() if events])

    def forgotten(self) -> Iterator[tuple[bytes, int]]:
        return iter(self.forgotten_at.items())

    def close(self) -> None:
        pass

    def append(self, events: Sequence[Event]) -> None:
        for event in events:
            self.events[event.user_key].setdefault((event.timestamp, event.event_id.encode()), event)

    def remove(self, events: Sequence[Event]) -> None:
        for event in events:
            self.events[event.user_key].pop((event.timestamp, event.event_id.encode()), None)

    def forget(self, user_key: bytes, *, at: int) -> None:
        self.forgotten_at[user_key] = max(at, self.forgotten_at.get(user_key, at))

    def _check(self) -> None:
        if self.down:
            raise StoreError("the store is down")
