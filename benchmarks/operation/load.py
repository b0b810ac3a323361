"""Requests that arrive at a given rate while something is done to the server, each with what became of it.

One thread sends at the scheduled times of a Poisson process, gRPC's own threads take the answers, and nothing is
decoded before the end, so that the driver leaves the machine to the server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Self

import grpc
import numpy as np
from pinrec_client import Recommendations, RecommendRequest
from pinrec_client.codec import decode_recommendations, encode_request
from tritonclient.grpc.service_pb2 import ModelInferResponse

INFER = "/inference.GRPCInferenceService/ModelInfer"
CHANNELS = 4  # a connection of its own each, as several replicas of a product have
OK = "OK"
REFUSED = "UNAVAILABLE"

UserId = int | str


@dataclass(slots=True)
class Sent:
    """One request. Times are those of ``time.perf_counter``; ``ended`` is 0 until it has."""

    number: int
    due: float
    ended: float = 0.0
    status: str = ""  # of gRPC
    reason: str = ""  # why it failed
    answer: bytes = b""

    @property
    def latency_ms(self) -> float:
        return 1e3 * (self.ended - self.due)

    def recommendations(self) -> Recommendations:
        return decode_recommendations(ModelInferResponse.FromString(self.answer), "")


class Load:
    """Sends ``requests`` in turn, each with ``timeout`` seconds to be answered in.

    ``keep_answers`` keeps what was answered, for drills that look into it.
    """

    def __init__(
        self, url: str, requests: Sequence[RecommendRequest], *, timeout: float = 2.0, keep_answers: bool = False
    ) -> None:
        self.sent: list[Sent] = []
        self._messages = [encode_request(request).SerializeToString() for request in requests]
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.insecure_channel(url, options=options) for _ in range(CHANNELS)]
        self._calls = [channel.unary_unary(INFER) for channel in self._channels]
        self._timeout = timeout
        self._keep = keep_answers
        self._numbers = count()
        self._random = np.random.default_rng(0)
        self._left = threading.Semaphore(0)  # released for every request that has ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        for channel in self._channels:
            channel.close()

    def at_rate(self, rate: float, seconds: float) -> list[Sent]:
        """Poisson arrivals at ``rate`` per second for that time; returns them when all have ended."""
        begun = len(self.sent)
        for due in self._arrivals(rate, time.perf_counter() + seconds):
            self._send(due)
        self.wait()
        return self.sent[begun:]

    def beside(self, rate: float) -> Beside:
        """The same in a thread of its own, for as long as a block lasts."""
        return Beside(self, rate)

    def closed(self, clients: int, seconds: float) -> float:
        """Requests per second that are answered while ``clients`` are in flight at any time."""
        begun = len(self.sent)
        start = time.perf_counter()
        places = threading.Semaphore(clients)
        while (now := time.perf_counter()) < start + seconds:
            places.acquire()
            self._send(now, places)
        self.wait()
        sent = self.sent[begun:]
        return sum(s.status == OK for s in sent) / (max(s.ended for s in sent) - start)

    def wait(self) -> None:
        """Until no request is in flight."""
        while any(s.ended == 0.0 for s in self.sent[-4096:]):
            time.sleep(0.01)

    def _arrivals(self, rate: float, end: float, stop: threading.Event | None = None):
        due = time.perf_counter()
        while (due := due + self._random.exponential(1 / rate)) < end and not (stop and stop.is_set()):
            if (early := due - time.perf_counter()) > 0:
                time.sleep(early)
            yield due

    def _send(self, due: float, places: threading.Semaphore | None = None) -> None:
        number = next(self._numbers)
        sent = Sent(number, due)
        self.sent.append(sent)
        call = self._calls[number % CHANNELS]
        future = call.future(self._messages[number % len(self._messages)], timeout=self._timeout)
        future.add_done_callback(partial(self._end, sent, places))

    def _end(self, sent: Sent, places: threading.Semaphore | None, future: grpc.Future) -> None:
        sent.status = future.code().name
        if sent.status != OK:
            sent.reason = future.details()
        elif self._keep:
            sent.answer = future.result()
        sent.ended = time.perf_counter()
        if places is not None:
            places.release()


class Beside:
    """A context in which a load arrives."""

    def __init__(self, load: Load, rate: float) -> None:
        self._load = load
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(rate,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._load.wait()

    def _run(self, rate: float) -> None:
        for due in self._load._arrivals(rate, float("inf"), self._stop):
            self._load._send(due)


def p99(sent: Sequence[Sent], status: str = OK) -> float:
    """Milliseconds, of the requests that ended with ``status``; 0 where there are none."""
    latencies = [s.latency_ms for s in sent if s.status == status]
    return float(np.percentile(latencies, 99)) if latencies else 0.0
