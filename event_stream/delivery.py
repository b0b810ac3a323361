"""Records are written to the service. What cannot be used is separated from its neighbours, which are stored.

Two kinds of failure are told apart. A fault of the *service* (away, overloaded, too slow) says nothing about the
records: the same events are sent again, after pauses that grow, until it takes them. A fault of a *record* is final.
The service refuses a whole call for one fault, so the events of the call are parted: at the position that the refusal
names, and in halves where it names none. For k faults among n events, that takes about k · log n calls.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pinrec_client import DeadlineExceededError, Event, InvalidRequestError, PinRecClientError, UnavailableError
from pinrec_client import ServerError as ClientServerError

from event_stream.records import RecordFormat
from event_stream.rejected import Rejected, Why
from event_stream.source import Record
from event_stream.stopping import Stopping
from pinrec_core.errors import DataError, ServerError

Row = tuple[Record, Event]

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds, between calls that fail; the client's own retries come before
SERVER_ERRORS = 5
"""Failures of the service on the same events after which these are parted. One that it fails on alone is rejected when
it has taken others meanwhile: a fault of its own that some event brings out would otherwise hold up the stream for
ever. While it takes none, nothing is rejected."""
CALL_CHARACTERS = 200_000
"""Characters of the events of one call. The service takes a megabyte, which holds them in UTF-8."""

_POSITION = re.compile(r"event_\w+\[(\d+)\]")


class UndeliveredError(ServerError):
    """The run ended while the service did not take events. They were not committed, so the next run sends them."""


@dataclass(slots=True)
class Delivered:
    """What became of the records of a batch: each is acknowledged or rejected."""

    acknowledged: int = 0
    calls: int = 0
    rejected: list[Rejected] = field(default_factory=list)


class Delivery:
    """Writes batches with ``log_events``, the client's method. Threads share it.

    ``tell`` is called with a sentence when the service stops to take events, and when it takes them again.
    """

    def __init__(
        self,
        log_events: Callable[[Sequence[Event]], int],
        record_format: RecordFormat,
        stopping: Stopping,
        tell: Callable[[str], None],
    ) -> None:
        self._log_events = log_events
        self._format = record_format
        self._stopping = stopping
        self._tell = tell
        self._lock = threading.Lock()
        self._acknowledged_calls = 0
        self._away_since: float | None = None
        self.waits = 0
        """How often the service was waited for."""

    def deliver(self, records: Sequence[Record]) -> Delivered:
        """Write a batch. Raises ``UndeliveredError`` when the run ends meanwhile, and errors that no wait can mend."""
        done = Delivered()
        rows: list[Row] = []
        for record in records:
            try:
                rows.append((record, self._format.event_of(record)))
            except DataError as fault:
                done.rejected.append(Rejected(record, Why.UNREADABLE, str(fault)))
        others = self._acknowledged_calls
        waiting = _calls(rows)[::-1]  # a stack, so that events go out in the order of the source
        while waiting:
            part = waiting.pop()
            refusal = self._write([event for _, event in part], done, others)
            if refusal is None:
                done.acknowledged += len(part)
                continue
            at = 0 if len(part) == 1 else _named_position(refusal, len(part))
            if at is None:
                middle = len(part) // 2
                parts = [part[:middle], part[middle:]]
            else:
                done.rejected.append(Rejected(part[at][0], Why.REFUSED, _POSITION.sub(_field_alone, refusal)))
                # What follows is halved, so that a batch of faults is not sent again whole for each of them.
                middle = at + 1 + (len(part) - at - 1) // 2
                parts = [part[:at], part[at + 1 : middle], part[middle:]]
            waiting += [one for one in reversed(parts) if one]
        return done

    def _write(self, events: Sequence[Event], done: Delivered, others: int) -> str | None:
        """Write events in one call, however long the service is away. Returns the refusal, None when it took them.

        ``others`` is the number of calls that the service had taken before this batch.
        """
        failures = 0
        while True:
            done.calls += 1
            try:
                self._log_events(events)
            except InvalidRequestError as refused:
                return str(refused)
            except (UnavailableError, DeadlineExceededError, ClientServerError) as error:
                failures += 1
                if isinstance(error, ClientServerError) and failures >= SERVER_ERRORS:
                    takes_others = self._acknowledged_calls > others
                    if len(events) > 1 or takes_others:
                        return f"the service fails on it and takes others: {error}"
                self._wait(error, failures)
            else:
                self._took()
                return None

    def _wait(self, error: PinRecClientError, failures: int) -> None:
        with self._lock:
            first = self._away_since is None
            if self._away_since is None:
                self._away_since = time.monotonic()
            self.waits += 1
        if first:
            self._tell(f"the service takes no events now, waiting for it: {error}")
        asked = error.retry_after or 0.0 if isinstance(error, UnavailableError) else 0.0
        self._stopping.pause(asked + random.uniform(0.0, min(FIRST_PAUSE * 2.0 ** min(failures, 16), LONGEST_PAUSE)))
        if self._stopping.given_up:
            raise UndeliveredError(f"the run ended before the service took the events in flight: {error}") from error

    def _took(self) -> None:
        with self._lock:
            self._acknowledged_calls += 1
            since, self._away_since = self._away_since, None
        if since is not None:
            self._tell(f"the service takes events again, after {time.monotonic() - since:.1f} s")


def _calls(rows: Sequence[Row]) -> list[Sequence[Row]]:
    """The rows of each call: all of them, unless their texts are long."""
    calls: list[Sequence[Row]] = []
    start = characters = 0
    for position, (_, event) in enumerate(rows):
        size = 64 + len(event.event_id) + len(event.action) + len(event.surface) + len(event.query or "")
        size += sum(len(one) for one in (event.user_id, event.item_id) if isinstance(one, str))
        if characters and characters + size > CALL_CHARACTERS:
            calls.append(rows[start:position])
            start, characters = position, 0
        characters += size
    if rows[start:]:
        calls.append(rows[start:])
    return calls


def _named_position(refusal: str, length: int) -> int | None:
    """The position of the event that a refusal names first, if it is one of ``length``."""
    named = _POSITION.match(refusal)
    return int(named[1]) if named is not None and int(named[1]) < length else None


def _field_alone(named: re.Match[str]) -> str:
    """``event_action[3]`` → ``event_action``: the position is that in one call, and tells the reader nothing."""
    return named[0].partition("[")[0]
