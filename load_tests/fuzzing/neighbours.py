"""Requests whose answers are known: they are asked again and again while others are malformed, and may not change."""

from __future__ import annotations

import threading
import time
from collections import Counter
from random import Random

from load_tests.fuzzing.messages import Answer, Caller, Case, Tensor
from load_tests.fuzzing.valid import ENSEMBLE, ValidRequests
from pinrec_core.errors import ServerError

REQUESTS = 8
TOLERANCE = 1e-5
"""Products of FP32 differ in their last bits from one batch size to another, and scores are of order 1 at most."""

IDENTICAL, ROUNDED, CHANGED, FAILED = "identical", "within rounding", "changed", "failed"


class Neighbours:
    """Asks its requests in turns, in a thread of its own, from ``start`` to ``stop``.

    The answers that are expected are taken first, while nothing else is asked. Raises ``ServerError`` where there are
    none.
    """

    def __init__(self, valid: ValidRequests, url: str, deadline: float) -> None:
        self.counts: Counter[str] = Counter({IDENTICAL: 0, ROUNDED: 0, CHANGED: 0, FAILED: 0})
        self.faults: list[str] = []
        self.slowest = 0.0  # seconds
        self._caller = Caller(url, deadline)
        self._messages = [Case(model=ENSEMBLE, tensors=_fixed(valid, Random(n))).encode() for n in range(REQUESTS)]
        self._expected = [self._caller.send(message) for message in self._messages]
        for answer in self._expected:
            if answer.code != "OK":
                raise ServerError(f"{ENSEMBLE}: {answer.code} {answer.message}: expected an answer to a valid request")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the last answer is there."""
        self._stop.set()
        self._thread.join()
        self._caller.close()

    def _ask(self) -> None:
        number = 0
        while not self._stop.is_set():
            number = (number + 1) % REQUESTS
            started = time.monotonic()
            answer = self._caller.send(self._messages[number])
            self.slowest = max(self.slowest, time.monotonic() - started)
            if answer.refused_by_front:  # overload says nothing about what others were sent
                continue
            compared = compare(self._expected[number], answer)
            self.counts[compared] += 1
            if compared in (CHANGED, FAILED):
                self.faults.append(f"request {number}: {compared} {answer.code} {answer.message}")


def _fixed(valid: ValidRequests, random: Random) -> tuple[Tensor, ...]:
    """A request of which nothing is left to the server's clock."""
    tensors = [t for t in valid.request(random) if t.name not in ("request_time", "seed")]
    return (
        *tensors,
        Tensor.of("request_time", "INT64", [valid.request_time]),
        Tensor.of("seed", "INT64", [random.getrandbits(62)]),
    )


def compare(expected: Answer, got: Answer) -> str:
    """Whether an answer is the expected one: bit by bit, or but for the rounding of another batch size."""
    if got.code != "OK":
        return FAILED
    if got.tensors == expected.tensors:
        return IDENTICAL
    items, scores, before, known = (a.column(n) for a in (got, expected) for n in ("item_id", "score"))
    same_outcomes = sorted(got.column("outcome")) == sorted(expected.column("outcome"))
    if len(items) != len(before) or not same_outcomes or got.column("release") != expected.column("release"):
        return CHANGED
    if any(abs(a - b) > TOLERANCE for a, b in zip(scores, known, strict=True)):
        return CHANGED
    for item, score, was in zip(items, scores, before, strict=True):
        near = {b for b, s in zip(before, known, strict=True) if abs(s - score) <= TOLERANCE}
        last = abs(known[-1] - score) <= TOLERANCE  # an item that was not returned may have taken the last place
        if item != was and item not in near and not last:
            return CHANGED
    return ROUNDED
