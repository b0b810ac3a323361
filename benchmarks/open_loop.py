"""An open loop: requests arrive at a given rate, and none waits for the answer to another.

Latency counts from the scheduled arrival, so that a driver or a server that falls behind shows as latency and not as
fewer requests. One thread sends at the scheduled times, gRPC's own threads take the answers, and no answer is decoded.
A closed loop by the same driver tells how much can be served. Run both in a process of their own (``driver_process``):
they hold Python's lock often, and must not delay anybody else by it.

This module imports neither torch nor the model package.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import grpc
import numpy as np
from pinrec_client import RecommendRequest
from pinrec_client.channel import open_channel
from pinrec_client.codec import encode_request
from pinrec_client.errors import DeadlineExceededError, from_rpc
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

LEAD = 0.05  # seconds from the start to the first possible arrival
POLLING = 0.005  # seconds between two looks whether the last requests have ended

UserId = int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where requests go and what they ask: ``num_items`` for each of ``users`` in turn, within ``timeout`` seconds."""

    url: str
    users: Sequence[UserId]
    num_items: int
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the R requests that arrived within the measured time.

    ``latency_ms`` and ``late_ms`` are float64 ``[R]``. Latencies include failures: a request that timed out lasted for
    its timeout. ``late_ms`` is how much later than scheduled each was sent. ``answered_per_second`` counts those that
    were answered in time. ``driver_share`` is the processor time of the driver as a share of one core, over all of the
    run.
    """

    latency_ms: np.ndarray
    late_ms: np.ndarray
    offered_per_second: float
    answered_per_second: float
    timeouts: int
    errors: Counter[str]  # message → number of other failures with it
    driver_share: float


def driver_process() -> ProcessPoolExecutor:
    """One process for ``open_loop`` and ``closed_loop``. It is spawned, because gRPC does not survive a fork."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def open_loop(target: Target, *, rate: float, seconds: float, warm_up: float, seed: int = 0) -> Outcome:
    """Poisson arrivals at ``rate`` per second for ``warm_up + seconds`` seconds, of which the first are not measured.

    Returns when every request is answered or has failed: at the latest ``timeout`` seconds after the last arrival.
    """
    arrivals = poisson_arrivals(rate, warm_up + seconds, seed)
    driver = _Driver(target)
    start = driver.began + LEAD
    for due in (start + arrivals).tolist():
        if (early := due - time.perf_counter()) > 0:
            time.sleep(early)
        driver.send(due)
    return driver.outcome(since=start + warm_up, seconds=seconds)


def closed_loop(target: Target, *, clients: int, seconds: float) -> Outcome:
    """``clients`` requests are in flight at any time: one is sent when another has ended."""
    driver = _Driver(target)
    for sent in driver.turns(clients, seconds):
        driver.send(sent)
    return driver.outcome(since=driver.began)


def poisson_arrivals(rate: float, seconds: float, seed: int) -> np.ndarray:
    """The arrivals of a Poisson process of ``rate`` per second, float64 ascending seconds in [0, ``seconds``)."""
    random = np.random.default_rng(seed)
    return np.sort(random.uniform(0, seconds, random.poisson(rate * seconds)))


@dataclass(slots=True)
class _Request:
    """Times are those of ``time.perf_counter``."""

    due: float
    sent: float
    ended: float = 0.0  # until it has
    failure: grpc.RpcError | None = None


class _Driver:
    """Sends requests and notes what becomes of them."""

    def __init__(self, target: Target) -> None:
        self._channel = open_channel(target.url)
        self._ask = GRPCInferenceServiceStub(self._channel).ModelInfer
        self._messages = [
            encode_request(RecommendRequest(user_id=user, num_items=target.num_items)) for user in target.users
        ]
        self._timeout = target.timeout
        self._requests: list[_Request] = []
        self._ended = threading.Semaphore(0)  # released for every request that has ended
        self._busy = time.process_time()
        self.began = time.perf_counter()

    def send(self, due: float) -> None:
        """Send the next request, which was scheduled for ``due``, and return at once."""
        message = self._messages[len(self._requests) % len(self._messages)]
        request = _Request(due, time.perf_counter())
        self._requests.append(request)
        self._ask.future(message, timeout=self._timeout).add_done_callback(partial(self._end, request))

    def turns(self, clients: int, seconds: float) -> Iterator[float]:
        """The moments, within ``seconds`` from the beginning, at which fewer than ``clients`` are in flight."""
        for _ in range(clients):
            self._ended.release()
        while self._ended.acquire() and (now := time.perf_counter()) < self.began + seconds:
            yield now

    def outcome(self, *, since: float, seconds: float | None = None) -> Outcome:
        """Wait for the requests in flight, then judge those that were due from ``since`` on.

        Rates are per second of ``seconds``, in which they were due, or of the time until the last of them ended.
        """
        while not all(request.ended for request in self._requests):
            time.sleep(POLLING)
        driver_share = (time.process_time() - self._busy) / (time.perf_counter() - self.began)
        self._channel.close()
        measured = [request for request in self._requests if request.due >= since]
        if seconds is None:
            seconds = max(request.ended for request in measured) - since
        failures = [from_rpc(request.failure) for request in measured if request.failure]
        errors = Counter(
            f"{type(failure).__name__}: {failure}"[:160]
            for failure in failures
            if not isinstance(failure, DeadlineExceededError)
        )
        return Outcome(
            latency_ms=1e3 * np.array([request.ended - request.due for request in measured]),
            late_ms=1e3 * np.array([request.sent - request.due for request in measured]),
            offered_per_second=len(measured) / seconds,
            answered_per_second=(len(measured) - len(failures)) / seconds,
            timeouts=len(failures) - errors.total(),
            errors=errors,
            driver_share=driver_share,
        )

    def _end(self, request: _Request, answer: grpc.Future) -> None:
        request.failure = answer.exception()
        request.ended = time.perf_counter()
        self._ended.release()
