"""The Locust user: an open-loop source of requests, sent by the real gRPC client.

The arrivals are open-loop, because the callers of a service do not wait for each other: when it slows down, requests
keep coming. In a closed loop each user sends, waits for the answer and sends again. Such a loop slows down along with
the service, so it offers less load just when the load matters, and it leaves out the requests that would have met the
stall (coordinated omission).

Therefore each user here is a Poisson process of ``--user-rate`` arrivals per second. It never waits for an answer: each
request runs in a greenlet of its own. Latency counts from the *scheduled* arrival, so that a load generator which falls
behind shows as latency. Poisson processes add up to a Poisson process, so the total rate is users × user rate. The load
is bounded by ``MAX_IN_FLIGHT``: an arrival beyond it is counted as a failure.

Locust's ``constant_pacing`` keeps a rate only while answers arrive faster than its pace, that is, while the service is
not overloaded.

``python -m load_tests`` runs this file. Locust can run it too:
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

# Makes gRPC yield to other greenlets while it waits. This has to happen after Locust has patched the standard library,
# which its import does, and before the first channel is opened.
grpc.experimental.gevent.init_gevent()

MAX_IN_FLIGHT = 512  # requests per user; far more than rate × timeout of any sensible run
NO_RETRIES = RetryPolicy(retries=0)  # a retry would hide a failure of the service from the report

_user_numbers = itertools.count()


class OverloadError(Exception):
    """The request was not sent, because too many others were still unanswered."""


class ShortAnswerError(Exception):
    """The answer holds fewer items than were asked for, although the catalogue has enough."""


@events.init_command_line_parser.add_listener
def add_arguments(parser: ArgumentParser) -> None:
    """Add the options that Locust's command line and ``python -m load_tests`` share."""
    group = parser.add_argument_group("PinRec")
    group.add_argument("--dataset", metavar="FOLDER", required=True, help="prepared dataset whose service is tested")
    group.add_argument("--request-timeout", type=float, default=2.0, help="seconds per request (default %(default)s)")
    group.add_argument("--no-writes", action="store_true", help="leave out requests that write events")
    group.add_argument("--random-seed", type=int, default=0, help="of the requests and arrivals (default %(default)s)")


@events.init_command_line_parser.add_listener
def add_rate(parser: ArgumentParser) -> None:
    """Add ``--user-rate`` to Locust's command line: a rate per user, as a Locust worker knows only its own users."""
    parser.add_argument("--user-rate", type=float, default=1.0, help="arrivals per second of each user")


class PinRecUser(User):
    """A Poisson process of requests. Each user has its own connection."""

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
        """Wait for the requests in flight, which all have a timeout, and close the connection."""
        self._in_flight.join()
        self._client.close()

    def wait_time(self) -> float:
        """Schedule the next arrival; returns the seconds until then, or 0 when it is due, so a late user catches up."""
        self._arrival += self._random.expovariate(self._rate)
        return self.wait_time_left()

    def wait_time_left(self) -> float:
        return max(0.0, self._arrival - time.monotonic())

    @task
    def arrive(self) -> None:
        """Start the request of one arrival, without waiting for its answer."""
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
