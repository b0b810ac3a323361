"""What every source of events offers. It knows no format and no service."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from pinrec_core.errors import PinRecError

Position = Mapping[Hashable, int]
"""How far a source has been read: for each of its parts, the offset to go on with. The source alone knows the keys."""

LONGEST_RECORD = 1 << 20
"""Bytes of a record. The service takes no more in a whole request, so a longer one is none of its events."""


class Record(NamedTuple):
    """One record as it lies in the source: bytes of JSON, or a row that is read already. None stands for no value.

    ``part`` and ``offset`` say where it lies, for people: a file and its bytes, or a partition and its offset.
    ``cut_from`` is the record's length in bytes where it is too long and ``value`` is only its beginning.
    """

    value: bytes | Mapping[str, Any] | None
    part: str
    offset: int
    cut_from: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Records in the order of the source, and its position after them. Both are empty while nothing new is there."""

    records: Sequence[Record] = ()
    position: Position = field(default_factory=dict)


class NotCommittedError(PinRecError):
    """A position could not be committed now. What lies behind it may be read again, which does no harm."""


class EventSource(Protocol):
    """Where records come from. One thread uses it."""

    def poll(self, limit: int, seconds: float) -> Batch | None:
        """The next records, at most ``limit``, waiting up to ``seconds`` for them. None when the source has ended.

        Raises ``PinRecError`` when the source cannot be read any further.
        """
        ...

    def commit(self, position: Position) -> None:
        """Remember that everything up to ``position`` is done, for the next run. Parts that went elsewhere are skipped.

        Raises ``NotCommittedError``.
        """
        ...

    def keep_alive(self) -> None:
        """Called every now and then while nothing can be taken in, so that the source does not give this reader up."""
        ...

    def on_handover(self, settle: Callable[[], None]) -> None:
        """``settle`` is called before parts of the source go to another reader: it finishes and commits what it can."""
        ...

    def close(self) -> None:
        """Release all resources. Nothing is committed."""
        ...
