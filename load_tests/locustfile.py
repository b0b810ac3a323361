"""The Locust user: an open-loop source of requests, sent by the real gRPC client.

The arrivals are open-loop, because the callers of a service do not wait for each other: when it slows down, requests
keep coming. In a closed loop each user sends, waits for the answer and sends again. Such a loop slows down along with
the service, so it offers less load just when the load matters, and it leaves out the requests that would have met the
stall (coordinated omission).

Therefore each user here is a Poisson process of arrivals. It never waits for an answer: each request runs in a greenlet
of its own. Latency counts from the *scheduled* arrival, so that a load generator which falls behind shows as latency.
Poisson processes add up to a Poisson process, so the total rate is the sum of the users' rates. The load is bounded by
``MAX_IN_FLIGHT``: an arrival beyond it is counted as a failure.

Locust's ``constant_pacing`` keeps a rate only while answers arrive faster than its pace, that is, while the service is
not overloaded.

``python -m load_tests`` runs this file with a given number of users, whose rate follows a schedule. Locust can run it
too, with its web interface or without. There the rate of a user is constant (``--user-rate``) and the number of users
changes (``locust_shapes``; with ``--class-picker`` the web interface offers the shapes):
``locust -f load_tests/locustfile.py --host 127.0.0.1:8001 --dataset FOLDER --headless -u 4 --user-rate 10 -t 30s``.
It writes events for known users: use ``--no-writes`` against a store whose content matters.
"""

from __future__ import annotations

import itertools
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from random import Random
from typing import Any

import gevent
import gevent.pool
import grpc.experimental.gevent
from locust import User, events, task
from locust.env import Environment
from locust.runners import MasterRunner
from pinrec_client import Event, PinRecClientError, RecommendRequest

from load_tests import locust_shapes
from load_tests.connection import connect
from load_tests.freshness import FreshnessProbe
from load_tests.mix import Mix, RequestType
from load_tests.options import add_request_arguments, add_shape_arguments
from load_tests.shapes import constant
from load_tests.workload import Workload

# Locust finds these here, and takes the first one where none is chosen.
SteadyShape = locust_shapes.SteadyShape
RampShape = locust_shapes.RampShape
SpikeShape = locust_shapes.SpikeShape
SoakShape = locust_shapes.SoakShape

# Makes gRPC yield to other greenlets while it waits. This has to happen after Locust has patched the standard library,
# which its import does, and before the first channel is opened.
grpc.experimental.gevent.init_gevent()

MAX_IN_FLIGHT = 512  # requests per user; far more than rate × timeout of any sensible run
NEVER = 86_400.0  # seconds; longer than what is left of any run

_user_numbers = itertools.count()
_probes: list[gevent.Greenlet] = []  # those that run


class OverloadError(Exception):
    """The request was not sent, because too many others were still unanswered."""


class ShortAnswerError(Exception):
    """The answer holds fewer items than were asked for, although the catalogue has enough."""


@events.init_command_line_parser.add_listener
def add_arguments(parser: ArgumentParser) -> None:
    """Add our options to Locust's command line and web interface, which shows only those that are in no group.

    ``--user-rate`` is a rate per user, because a Locust worker knows only its own users.
    """
    add_request_arguments(parser)
    add_shape_arguments(parser)
    parser.add_argument("--user-rate", type=float, default=1.0, help="arrivals per second of each user")


@events.test_start.add_listener
def start_probe(environment: Environment, **_: Any) -> None:
    """Start the freshness probe unless the options say otherwise. It runs until ``stop_probe``."""
    options = environment.parsed_options
    assert options is not None
    if not probes_wanted(options) or isinstance(environment.runner, MasterRunner):
        return
    probe = FreshnessProbe(
        connect(str(environment.host), options),
        Workload.load(Path(options.dataset), Mix.load(options.mix).draw),
        Random(),  # not seeded: its users have to be new in every run
        environment.events.request.fire,
    )
    _probes.append(gevent.spawn(probe.run, options.freshness_interval))


@events.test_stopping.add_listener
def stop_probe(**_: Any) -> None:
    """Give up what the probe is doing, if there is one."""
    while _probes:
        _probes.pop().kill()


def probes_wanted(options: Namespace) -> bool:
    return not options.no_writes and options.freshness_interval > 0


class PinRecUser(User):
    """A Poisson process of requests. Each user has its own connection."""

    def on_start(self) -> None:
        options = self.environment.parsed_options
        self._random = Random(f"{options.random_seed}/{next(_user_numbers)}")
        mix = Mix.load(options.mix)
        self._workload = Workload.load(Path(options.dataset), mix.draw)
        weights = mix.weighted_types(self._workload, writes=not options.no_writes)
        self._types, self._weights = list(weights), list(weights.values())
        self._client = connect(str(self.environment.host or self.host), options)
        self._in_flight = gevent.pool.Pool(MAX_IN_FLIGHT)
        # Only ``python -m load_tests`` has a schedule, which the users share, and a monotonic time at which it begins.
        schedule = getattr(options, "schedule", None) or constant(options.user_rate)
        self._start = getattr(options, "schedule_start", None) or time.monotonic()
        self._arrivals = schedule.arrivals(self._random, getattr(options, "share", 1.0))
        time.sleep(self.wait_time())

    def on_stop(self) -> None:
        """Wait for the requests in flight, which all have a timeout, and close the connection."""
        self._in_flight.join()
        self._client.close()

    def wait_time(self) -> float:
        """Schedule the next arrival; returns the seconds until then, or 0 when it is due, so a late user catches up."""
        arrival = next(self._arrivals, None)
        if arrival is None:
            return NEVER
        self._due = self._start + arrival
        return max(0.0, self._due - time.monotonic())

    @task
    def arrive(self) -> None:
        """Start the request of one arrival, without waiting for its answer."""
        (kind,) = self._random.choices(self._types, self._weights)
        request = kind.make(self._workload, self._random)
        if self._in_flight.full():
            error = OverloadError(f"{MAX_IN_FLIGHT} requests are in flight: the request was not sent")
            self._report(kind, self._due, time.monotonic(), 0, error)
        else:
            self._in_flight.spawn(self._send, kind, request, self._due)

    def _send(self, kind: RequestType, request: RecommendRequest | Event, due: float) -> None:
        sent = time.monotonic()
        try:
            if isinstance(request, Event):
                count = self._client.log_events([request])
            else:
                count = len(self._client.send(request).items)
                self._check(request, count)
        except (PinRecClientError, ShortAnswerError) as error:
            self._report(kind, due, sent, 0, error)
        else:
            self._report(kind, due, sent, count, None)

    def _check(self, request: RecommendRequest, count: int) -> None:
        expected = 1 if request.exclude_seen else min(request.num_items or 1, self._workload.num_items)
        if count < expected:
            raise ShortAnswerError(f"{count} items: expected {expected}")

    def _report(self, kind: RequestType, due: float, sent: float, count: int, error: Exception | None) -> None:
        self.environment.events.request.fire(
            request_type="gRPC",
            name=kind.name,
            response_time=(time.monotonic() - due) * 1000,
            response_length=count,
            exception=error,
            context={"arrival": due, "late_ms": max(0.0, sent - due) * 1000},
        )
