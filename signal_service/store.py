"""The interface of a real-time store: events of users are appended, and read by time. It knows no backend.

Time is always an argument. An event holds the names of its action and surface and not their numbers, because numbers
change from one release to the next, while stored events stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pinrec_core.history import ItemType


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of one user.

    ``user_key`` is ``ids.user_store_key``; ``timestamp`` is in Unix seconds; ``query`` is the text of a query and
    empty for a pin. ``event_id`` (not empty) makes an append repeatable: the same id at the same time of one user is
    one event.
    """

    event_id: str
    user_key: bytes
    item_key: int
    item_type: ItemType
    action: str
    surface: str
    timestamp: int
    query: str = ""


class EventReader(Protocol):
    """The read side of a store. Every method raises ``StoreError`` when the store cannot serve now."""

    def refresh(self) -> None:
        """Make appends that finished before this call visible to ``read``. Cheap; called once per batch."""
        ...

    def read(self, user_key: bytes, *, since: int, until: int, limit: int) -> list[Event]:
        """The user's newest ``limit`` events with ``since <= timestamp < until``, oldest first."""
        ...

    def close(self) -> None:
        """Release all resources. Further calls raise ``StoreError``."""
        ...


class EventStore(EventReader, Protocol):
    """Both sides. One process at a time may hold a store for writing."""

    def append(self, events: Sequence[Event]) -> None:
        """Store all events or none. They may come in any order. Appending an event again changes nothing."""
        ...
