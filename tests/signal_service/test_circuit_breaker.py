"""The circuit breaker, by a clock that the test turns."""

from __future__ import annotations

import threading

import pytest

from pinrec_core.errors import StoreError
from signal_service.circuit_breaker import CircuitBreaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(failures=3, pause_seconds=10, monotonic=clock)


def call(breaker: CircuitBreaker, error: BaseException | None = None) -> str:
    """What came of a call: "refused", "failed" or "done"."""
    try:
        with breaker.call((OSError,)):
            if error is not None:
                raise error
    except StoreError:
        return "refused"
    except BaseException:
        return "failed"
    return "done"


def test_it_opens_after_failures_in_a_row_and_tries_once_after_the_pause(breaker: CircuitBreaker, clock: Clock):
    assert [call(breaker, OSError()) for _ in range(4)] == ["failed", "failed", "failed", "refused"]
    assert breaker.is_open
    clock.now += 9.9
    assert call(breaker) == "refused"
    clock.now += 0.2
    assert call(breaker, OSError()) == "failed"
    assert call(breaker) == "refused"
    clock.now += 10.1
    assert call(breaker) == "done"
    assert not breaker.is_open
    assert call(breaker, OSError()) == "failed"
    assert call(breaker) == "done"


def test_a_success_or_another_error_ends_the_row(breaker: CircuitBreaker):
    for between in (None, ValueError("an answer, but not the one that was wanted")):
        assert [call(breaker, OSError()) for _ in range(2)] == ["failed", "failed"]
        call(breaker, between)
    assert not breaker.is_open


def test_a_call_that_is_broken_off_tells_nothing_and_lets_the_next_one_try(breaker: CircuitBreaker, clock: Clock):
    for _ in range(3):
        call(breaker, OSError())
    clock.now += 11
    assert call(breaker, KeyboardInterrupt()) == "failed"
    assert breaker.is_open
    assert call(breaker) == "done"


def test_only_one_call_tries_and_no_call_waits_for_another(breaker: CircuitBreaker, clock: Clock):
    for _ in range(3):
        call(breaker, OSError())
    clock.now += 11
    with breaker.call((OSError,)):
        others: list[str] = []
        threads = [threading.Thread(target=lambda: others.append(call(breaker))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert others == ["refused"] * 3
    assert call(breaker) == "done"


def test_calls_that_began_before_it_opened_neither_prolong_the_pause_nor_end_the_attempt(
    breaker: CircuitBreaker, clock: Clock
):
    slow = breaker.call((OSError,))
    slow.__enter__()
    for _ in range(3):
        call(breaker, OSError())
    clock.now += 11
    with breaker.call((OSError,)):
        assert not slow.__exit__(OSError, OSError(), None)
        assert call(breaker) == "refused"  # the attempt is still under way
    assert call(breaker) == "done"
