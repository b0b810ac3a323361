"""Load for a short measurement: C clients, each of which asks again as soon as it is answered.

It finds how much a server can serve. How long requests take at a given rate is another question, which ``load_tests``
answers.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pinrec_client import PinRecClient

from pinrec_core.errors import ServerError

REQUEST_TIMEOUT = 30.0
NUM_ITEMS = 100

UserId = int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the clients saw: the latency of every request in milliseconds, and requests per second of all together."""

    latencies_ms: list[float]
    requests_per_second: float


def closed_loop(url: str, users: Sequence[UserId], *, clients: int, seconds: float) -> Load:
    """Ask for ``users`` in turn. Every client asks once before the time begins. Raises ``ServerError``."""
    latencies: list[list[float]] = [[] for _ in range(clients)]
    failures: list[Exception] = []
    start = threading.Barrier(clients + 1)
    end = threading.Event()

    def work(number: int) -> None:
        try:
            with PinRecClient(url, timeout=REQUEST_TIMEOUT) as client:
                ask = asking(client, users[number % len(users) :: clients] or users)
                ask()
                start.wait()
                while not end.is_set():
                    before = time.perf_counter()
                    ask()
                    latencies[number].append((time.perf_counter() - before) * 1e3)
        except Exception as error:  # raised again below, because a thread cannot raise in another one
            failures.append(error)
            start.abort()

    workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(clients)]
    for worker in workers:
        worker.start()
    began = time.perf_counter()
    try:
        start.wait()
        began = time.perf_counter()
        end.wait(seconds)
    except threading.BrokenBarrierError:  # a first request has failed
        pass
    finally:  # after Ctrl-C too: nobody shall ask a server that stops
        end.set()
    for worker in workers:
        worker.join()
    elapsed = time.perf_counter() - began
    if failures:
        cause = next((f for f in failures if not isinstance(f, threading.BrokenBarrierError)), failures[0])
        raise ServerError(f"a request failed under load: {cause}") from cause
    values = list(itertools.chain.from_iterable(latencies))
    return Load(latencies_ms=values, requests_per_second=len(values) / elapsed)


def asking(client: PinRecClient, users: Sequence[UserId]) -> Callable[[], object]:
    """A function that asks for the next user at each call."""
    following = itertools.cycle(users)
    return lambda: client.recommend(next(following), num_items=NUM_ITEMS)
