"""Keeps what became of every request: an outcome, a latency and how late it was sent.

Locust has statistics of its own, but they round latencies to two digits, include the warm-up, and know no difference
between a request that the service refused and one that it failed to answer. Ten million requests take 290 MB here.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from pinrec_client import DeadlineExceededError, UnavailableError

PROBE = "probe"
"""The ``request_type`` of Locust's events that a freshness probe fires; those of requests are ``gRPC``."""

MAX_SENTENCES = 200
OTHER_ERRORS = "other errors"

_REQUEST_ID = re.compile(r"\b[0-9a-f]{32}\b")


class Outcome(IntEnum):
    """What became of a request."""

    ACCEPTED = 0  # answered in time
    REFUSED = 1  # the service said at once that it is unavailable, or nothing listened
    TIMED_OUT = 2  # no answer within the timeout
    FAILED = 3  # any other error, and an answer that is too short


class NotVisibleError(Exception):
    """A probe's event was still not reflected when its patience ended."""


class UndecidedError(Exception):
    """A probe could not say anything, because its write or its requests were not answered."""


def outcome_of(error: Exception | None) -> Outcome:
    if error is None:
        return Outcome.ACCEPTED
    if isinstance(error, UnavailableError):
        return Outcome.REFUSED
    return Outcome.TIMED_OUT if isinstance(error, DeadlineExceededError) else Outcome.FAILED


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Requests:
    """R requests. ``kind`` and ``error`` are positions in ``kinds`` and ``errors``; error 0 is none.

    ``arrival`` is the scheduled arrival, in seconds from the schedule's start. ``latency_ms`` counts from there to the
    answer. ``late_ms`` is how much later than scheduled the request was sent, which is the fault of the driver alone.
    """

    arrival: np.ndarray  # float64 [R]
    latency_ms: np.ndarray  # float64 [R]
    late_ms: np.ndarray  # float64 [R]
    outcome: np.ndarray  # uint8 [R], values of Outcome
    kind: np.ndarray  # uint16 [R]
    error: np.ndarray  # uint16 [R]
    kinds: tuple[str, ...]
    errors: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.arrival)

    def take(self, keep: np.ndarray) -> Requests:
        """Those at which the boolean mask ``keep`` [R] is true."""
        columns = {name: getattr(self, name)[keep] for name in _COLUMNS}
        return Requests(**columns, kinds=self.kinds, errors=self.errors)

    def during(self, start: float, end: float) -> Requests:
        """Those whose scheduled arrival is in [start, end)."""
        return self.take((self.arrival >= start) & (self.arrival < end))

    def count(self, outcome: Outcome) -> int:
        return int((self.outcome == outcome).sum())

    def error_counts(self) -> Counter[str]:
        """How many requests have each error."""
        times = np.bincount(self.error, minlength=len(self.errors))
        return Counter({text: int(n) for text, n in zip(self.errors[1:], times[1:], strict=True) if n})


_COLUMNS = {"arrival": "d", "latency_ms": "d", "late_ms": "d", "outcome": "B", "kind": "H", "error": "H"}


@dataclass(frozen=True, slots=True)
class Probe:
    """One measurement of freshness: when its write was acknowledged, and the milliseconds from there to visible.

    ``visible_ms`` is None if the probe ended without it: because the event had no effect until then, or ``undecided``.
    """

    arrival: float
    visible_ms: float | None
    undecided: bool


class Recorder:
    """A listener for Locust's ``request`` event. ``origin`` is the schedule's start in monotonic seconds."""

    def __init__(self, origin: float) -> None:
        self.origin = origin
        self.probes: list[Probe] = []
        self._columns = {name: array(code) for name, code in _COLUMNS.items()}
        self._kinds: dict[str, int] = {}
        self._errors: dict[str, int] = {"": 0}

    def __call__(
        self,
        request_type: str,
        name: str,
        response_time: float,
        exception: Exception | None,
        context: Mapping[str, Any],
        **_: Any,
    ) -> None:
        arrival = context["arrival"] - self.origin
        if request_type == PROBE:
            undecided = isinstance(exception, UndecidedError)
            self.probes.append(Probe(arrival, None if exception else response_time, undecided))
            return
        row = {
            "arrival": arrival,
            "latency_ms": response_time,
            "late_ms": context["late_ms"],
            "outcome": outcome_of(exception),
            "kind": self._kinds.setdefault(name, len(self._kinds)),
            "error": self._error(exception),
        }
        for column, value in row.items():
            self._columns[column].append(value)

    def requests(self) -> Requests:
        """All requests that have ended until now."""
        columns = {name: np.array(values) for name, values in self._columns.items()}
        return Requests(**columns, kinds=tuple(self._kinds), errors=tuple(self._errors))

    def _error(self, exception: Exception | None) -> int:
        if exception is None:
            return 0
        sentence = _sentence(exception)
        if sentence not in self._errors and len(self._errors) >= MAX_SENTENCES:
            sentence = OTHER_ERRORS
        return self._errors.setdefault(sentence, len(self._errors))


def _sentence(error: Exception) -> str:
    """Class and first line of an error, without its request id, so that equal errors are counted together."""
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {_REQUEST_ID.sub('…', first_line)[:160]}"
