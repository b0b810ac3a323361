"""The Locust user: an open-loop source of requests through the real gRPC client.

Arrivals are open-loop. A service's callers do not wait for each other: when it slows down, requests keep coming. A
closed loop (each user sends, waits for the answer, sends again) slows down with the service, offers less load just
when it matters, and leaves out the requests that would have met the stall (coordinated omission). So each user here
is a Poisson process of ``--user-rate`` arrivals per second: it never waits for an answer, each request runs in a
greenlet of its own, and response time counts from the *scheduled* arrival, so that a load generator that falls behind
shows as latency instead of hiding it. Poisson processes add up to one, hence the total rate is users × user rate.

``constant_pacing`` would keep a rate too, but only while answers arrive faster than its pace, which is the case in
which nothing needs testing. What bounds the load is ``MAX_IN_FLIGHT``: an arrival beyond it is counted as a failure.

Run by ``python -m load_tests``, or by Locust itself:
``locust -f load_tests/locustfile.py --host 127.0.0.1:8001 --dataset FOLDER --headless -u 4 --user-rate 10 -t 30s``.
It writes events for known users: use ``--no-writes`` against a store whose content matters.
"""

from __future__ import annotations

import itertools
import time
from argparse import ArgumentParser
from pathlib import Path
from random import Random

import gevent.pool
import grpc.experimental.gevent
from locust import User, events, task
from pinrec_client import Event, PinRecClient, PinRecClientError, RecommendRequest, RetryPolicy

from load_tests.workload import RequestType, Workload, mix_for

# Makes gRPC's waits yield to other greenlets. Locust has patched the standard library by now; no channel is open yet.
grpc.experimental.gevent.init_gevent()

MAX_IN_FLIGHT = 512  # requests per user; far above rate × timeout of any sensible run
NO_RETRIES = RetryPolicy(retries=0)  # a failure is a failure: the report is about the service, not about the client

_user_numbers = itertools.count()


class OverloadError(Exception):
    """The request was not sent: too many were unanswered already."""


class ShortAnswerError(Exception):
    """The answer holds fewer items than were asked for, though the catalogue has them."""


@events.init_command_line_parser.add_listener
def add_arguments(parser: ArgumentParser) -> None:
    """The options of this file, for Locust's command line and for ``python -m load_tests`` alike."""
    group = parser.add_argument_group("PinRec")
    group.add_argument("--dataset", metavar="FOLDER", required=True, help="prepared dataset whose service is tested")
    group.add_argument("--request-timeout", type=float, default=2.0, help="seconds per request (default %(default)s)")
    group.add_argument("--no-writes", action="store_true", help="leave out requests that write events")
    group.add_argument("--random-seed", type=int, default=0, help="of the requests and arrivals (default %(default)s)")


@events.init_command_line_parser.add_listener
def add_rate(parser: ArgumentParser) -> None:
    """Locust's own option: its workers each know only their own users, so the rate is given per user."""
    parser.add_argument("--user-rate", type=float, default=1.0, help="arrivals per second of each user")


class PinRecUser(User):
    """A Poisson process of requests over a connection of its own."""

    def on_start(self) -> None:
        options = self.environment.parsed_options
        self._random = Random(f"{options.random_seed}/{next(_user_numbers)}")
        self._workload = Workload.load(Path(options.dataset))
        self._mix = mix_for(self._workload, writes=not options.no_writes)
        self._rate = options.user_rate
        self._client = PinRecClient(
            str(self.environment.host or self.host), timeout=options.request_timeout, retry=NO_RETRIES
        )
        self._in_flight = gevent.pool.Pool(MAX_IN_FLIGHT)
        self._arrival = time.monotonic() + self._random.expovariate(self._rate)
        time.sleep(self.wait_time_left())

    def on_stop(self) -> None:
        """Let the requests in flight end: each has a timeout."""
        self._in_flight.join()
        self._client.close()

    def wait_time(self) -> float:
        """Seconds until the next arrival; 0 when it is due, so that a late generator catches up."""
        self._arrival += self._random.expovariate(self._rate)
        return self.wait_time_left()

    def wait_time_left(self) -> float:
        return max(0.0, self._arrival - time.monotonic())

    @task
    def arrive(self) -> None:
        """One arrival: start its request and do not wait for it."""
        (kind,) = self._random.choices(self._mix, [t.weight for t in self._mix])
        request = kind.make(self._workload, self._random)
        if self._in_flight.full():
            error = OverloadError(f"{MAX_IN_FLIGHT} requests are in flight: the request was not sent")
            self._report(kind, self._arrival, 0, error)
        else:
            self._in_flight.spawn(self._send, kind, request, self._arrival)

    def _send(self, kind: RequestType, request: RecommendRequest | Event, arrival: float) -> None:
        try:
            if isinstance(request, Event):
                count = self._client.log_events([request])
            else:
                count = len(self._client.send(request).items)
                self._check(request, count)
        except (PinRecClientError, ShortAnswerError) as error:
            self._report(kind, arrival, 0, error)
        else:
            self._report(kind, arrival, count, None)

    def _check(self, request: RecommendRequest, count: int) -> None:
        expected = 1 if request.exclude_seen else min(request.num_items or 1, self._workload.num_items)
        if count < expected:
            raise ShortAnswerError(f"{count} items: expected {expected}")

    def _report(self, kind: RequestType, arrival: float, count: int, error: Exception | None) -> None:
        self.environment.events.request.fire(
            request_type="gRPC",
            name=kind.name,
            response_time=(time.monotonic() - arrival) * 1000,
            response_length=count,
            exception=error,
            context={"arrival": arrival},
        )
