"""The endpoints of a service: which of them gets the next attempt, and which are left out for a while.

Calls take turns. An endpoint that fails several times without a success in between is left out (outlier ejection): for
half a second at first, then for twice as long each time, up to half a minute. Afterwards one attempt tries it, and the
others follow when that one has succeeded. When every endpoint is left out, all of them take turns as if none were.

Each endpoint has a channel of its own. gRPC can spread the calls of one channel over several addresses as well, but it
takes them as numbers only, does not say beforehand which one a call will reach, so that a retry could not avoid the one
that failed, and goes on sending calls to a replica that accepts connections and then refuses every call.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

FAILURES = 3
"""Failures in a row after which an endpoint is left out: enough that a stray one does not move load to the others."""

LIGHT_FAILURES = 20
"""The same of refusals for overload and of attempts that a hedge has overtaken. An endpoint that is merely overloaded
or slow answers some calls in between and keeps its turn. One that answers none, such as a proxy without a server behind
it or a machine that hangs, is left out before retries and hedges have spent their budget."""

FIRST_ABSENCE = 0.5  # seconds
LONGEST_ABSENCE = 30.0  # seconds


class Endpoint:
    """One url of the service and the calls of Triton's protocol over its channel. ``Endpoints`` has the rest."""

    def __init__(self, url: str, channel: Any) -> None:
        self.url = url
        self.stub = GRPCInferenceServiceStub(channel)
        self.blame = 0.0  # since the last success; from 1 on the endpoint is left out
        self.absences = 0  # since the last success
        self.absent_until = 0.0  # monotonic seconds
        self.on_trial = False  # absent, except that one attempt tries it

    def __repr__(self) -> str:
        return f"Endpoint({self.url})"


class Endpoints:
    """The endpoints of one client, as seen by one model, over the channels of its urls. Its threads share them."""

    def __init__(self, channels: Mapping[str, Any]) -> None:
        self.all = [Endpoint(url, channel) for url, channel in channels.items()]
        self._lock = threading.Lock()
        self._turn = random.randrange(len(channels))  # not every client begins with the first one

    def choose(self, tried: Sequence[Endpoint] = ()) -> Endpoint:
        """The endpoint for the next attempt of a call that has ``tried`` some before: another one while one works."""
        with self._lock:
            now = time.monotonic()
            in_turn = self.all[self._turn :] + self.all[: self._turn]
            chosen = min(in_turn, key=lambda endpoint: (endpoint.absent_until > now, tried.count(endpoint)))
            if not tried:  # else the turn would come back to the endpoint that failed, for every call anew
                self._turn = (self.all.index(chosen) + 1) % len(self.all)
            if chosen.absences and chosen.absent_until <= now:
                chosen.on_trial = True
                chosen.absent_until = now + _absence(chosen.absences)
            return chosen

    def succeeded(self, endpoint: Endpoint) -> None:
        """Note that an attempt was answered."""
        if endpoint.blame:
            with self._lock:
                endpoint.blame = endpoint.absent_until = 0.0
                endpoint.absences = 0
                endpoint.on_trial = False

    def failed(self, endpoint: Endpoint, *, lightly: bool = False) -> None:
        """Note that an attempt failed through the endpoint's fault; ``lightly`` if it was refused or overtaken."""
        with self._lock:
            now = time.monotonic()
            if endpoint.absent_until > now and not endpoint.on_trial:
                return  # one of many attempts that were in flight when it failed: they make the absence no longer
            endpoint.blame += 1 / (LIGHT_FAILURES if lightly else FAILURES)
            if endpoint.blame > 1 - 1e-6:  # sums of fractions fall short of 1 by rounding
                endpoint.absences += 1
                endpoint.absent_until = now + _absence(endpoint.absences)
                endpoint.on_trial = False


def _absence(number: int) -> float:
    """Seconds of absence 1, 2, …, with jitter, so that clients do not all try a returning endpoint at one moment."""
    longest = min(FIRST_ABSENCE * 2 ** min(number - 1, 16), LONGEST_ABSENCE)
    return random.uniform(longest / 2, longest)
