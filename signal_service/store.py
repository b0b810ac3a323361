"""The interface of a real-time store: events of users are appended, and read by time. It knows no backend.

Time is always an argument. An event holds the names of its action and surface and not their numbers, because numbers
change from one release to the next, while stored events stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What to read of one user: the newest ``limit`` events with ``since <= timestamp < until`` (Unix seconds)."""

    user_key: bytes
    since: int
    until: int
    limit: int


@dataclass(frozen=True, slots=True)
class UserEvents:
    """What a store holds of one user.

    ``events`` are oldest first. ``forgotten_at`` (Unix seconds) is set when the user asked to be forgotten: nothing
    up to and including that time may be used any more, from wherever it comes. ``events`` keeps to it already.
    """

    events: Sequence[Event] = ()
    forgotten_at: int | None = None


class EventReader(Protocol):
    """The read side of a store. Every method raises ``StoreError`` when the store cannot serve now."""

    def refresh(self) -> None:
        """Make appends that finished before this call visible to ``read``. Cheap; called once per batch."""
        ...

    def read(self, spans: Sequence[Span]) -> list[UserEvents]:
        """The events of each span, in the order of ``spans``. A store on other machines is asked once for all."""
        ...

    def user_keys(self) -> Iterator[bytes]:
        """Every user with events, each once. New ones may be missed while it runs."""
        ...

    def forgotten(self) -> Iterator[tuple[bytes, int]]:
        """Every user who asked to be forgotten, with ``forgotten_at``."""
        ...

    def close(self) -> None:
        """Release all resources. Further calls raise ``StoreError``."""
        ...


class EventStore(EventReader, Protocol):
    """Both sides. Of the embedded store, one process at a time may hold it for writing."""

    def append(self, events: Sequence[Event]) -> None:
        """Store all events or none. They may come in any order. Appending an event again changes nothing.

        When it returns, the events are as durable as the store was opened for (``Durability``).
        """
        ...

    def remove(self, events: Sequence[Event]) -> None:
        """Remove these events, because a batch holds them. Those that are absent are no error."""
        ...

    def forget(self, user_key: bytes, *, at: int) -> None:
        """Remove all events of the user up to and including ``at`` (Unix seconds), and remember it for ever.

        Durable when it returns. A later ``append`` of an earlier event stays invisible. A repeated call keeps the
        latest ``at``.
        """
        ...


class Durability(StrEnum):
    """What an event survives once ``append`` has returned."""

    PROCESS = "process"  # the end of the process, kill -9 included: written to the log, not yet to the disk
    DISK = "disk"  # a crash of the machine as well: the log is on the disk; what arrives together shares one fsync
