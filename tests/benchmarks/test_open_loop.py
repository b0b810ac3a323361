"""The open-loop driver: arrivals wait for nobody, latency counts from the schedule, failures are counted by kind."""

from __future__ import annotations

import threading
import time

import grpc
import numpy as np
import pytest

from benchmarks.open_loop import LEAD, Target, _Driver, closed_loop, driver_process, open_loop, poisson_arrivals
from tests.client.conftest import StandIn, integer_service, scripted
from tests.client.scripted import ScriptedService, recommendations

__all__ = ["integer_service", "scripted"]


def target(url: str, timeout: float = 30.0) -> Target:
    return Target(url=url, users=[1, 2, 3], num_items=2, timeout=timeout)


def test_arrivals_are_poisson():
    arrivals = poisson_arrivals(200.0, 50.0, seed=0)
    assert (np.diff(arrivals) >= 0).all()
    assert arrivals[0] >= 0
    assert arrivals[-1] < 50
    # 10,000 are expected with a deviation of 100, and exponential gaps deviate as much as their mean.
    assert abs(len(arrivals) - 10_000) < 500
    gaps = np.diff(arrivals)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    np.testing.assert_array_equal(arrivals, poisson_arrivals(200.0, 50.0, seed=0))
    assert len(poisson_arrivals(200.0, 50.0, seed=1)) != len(arrivals)


def test_arrivals_do_not_wait_for_answers(scripted: ScriptedService):
    """Nothing is answered until six have arrived: a loop that waited for its first answer would end in a timeout."""
    all_here = threading.Barrier(6)

    def answer(_):
        all_here.wait(20)
        return recommendations()

    scripted.answer = answer
    seed = next(seed for seed in range(1000) if len(poisson_arrivals(60.0, 0.1, seed)) == 6)
    outcome = open_loop(target(scripted.url), rate=60.0, seconds=0.1, warm_up=0.0, seed=seed)
    assert (len(outcome.latency_ms), outcome.timeouts, outcome.errors.total()) == (6, 0, 0)
    assert outcome.offered_per_second == outcome.answered_per_second == pytest.approx(60)


def test_users_take_turns(scripted: ScriptedService):
    scripted.answer = lambda _: recommendations()
    outcome = closed_loop(target(scripted.url), clients=1, seconds=0.2)
    asked = [
        int.from_bytes(received.question.raw_input_contents[0], "little", signed=True) for received in scripted.received
    ]
    assert asked == ([1, 2, 3] * len(asked))[: len(asked)]
    assert len(asked) == len(outcome.latency_ms) > 1


def test_a_closed_loop_has_so_many_in_flight_and_no_more(scripted: ScriptedService):
    flying, most = 0, 0
    lock = threading.Lock()

    def answer(_):
        nonlocal flying, most
        with lock:
            flying += 1
            most = max(most, flying)
        time.sleep(0.01)
        with lock:
            flying -= 1
        return recommendations()

    scripted.answer = answer
    outcome = closed_loop(target(scripted.url), clients=3, seconds=0.3)
    assert most == 3
    assert outcome.answered_per_second == outcome.offered_per_second > 0


def test_latency_counts_from_the_scheduled_arrival(scripted: ScriptedService):
    scripted.answer = lambda _: recommendations()
    driver = _Driver(target(scripted.url))
    scheduled = time.perf_counter() - 5.0  # a driver that had stalled for five seconds
    driver.send(scheduled)
    outcome = driver.outcome(since=scheduled, seconds=1.0)
    assert outcome.late_ms[0] >= 5000
    assert outcome.latency_ms[0] >= outcome.late_ms[0]


def test_what_arrives_while_warming_up_is_sent_but_not_counted(scripted: ScriptedService):
    scripted.answer = lambda _: recommendations()
    outcome = open_loop(target(scripted.url), rate=50.0, seconds=0.4, warm_up=0.4, seed=3)
    arrivals = poisson_arrivals(50.0, 0.8, seed=3)
    assert len(scripted.received) == len(arrivals)
    assert len(outcome.latency_ms) == (arrivals >= 0.4).sum() < len(arrivals)


def test_failures_are_counted_by_kind(scripted: ScriptedService):
    scripted.answer = lambda _: grpc.StatusCode.INTERNAL
    failed = open_loop(target(scripted.url), rate=100.0, seconds=0.2, warm_up=0.0)
    assert (failed.timeouts, failed.errors.total(), failed.answered_per_second) == (0, len(failed.latency_ms), 0)
    assert list(failed.errors) == ["ServerError: INTERNAL: as the script says"]

    held = threading.Event()
    scripted.answer = lambda _: held.wait(20) and recommendations()
    late = open_loop(target(scripted.url, timeout=0.2), rate=100.0, seconds=0.1, warm_up=0.0)
    held.set()
    assert (late.timeouts, late.errors.total(), late.answered_per_second) == (len(late.latency_ms), 0, 0)
    # Each lasted for its timeout of 200 ms, of which gRPC's timer may be a few milliseconds off.
    assert (late.latency_ms >= 150).all()


@pytest.mark.triton
def test_the_real_server_answers_all_of_a_process_of_its_own(integer_service: StandIn):
    with driver_process() as process:
        outcome = process.submit(open_loop, target(integer_service.url), rate=50.0, seconds=1.0, warm_up=LEAD).result()
    assert not outcome.timeouts
    assert not outcome.errors
    # A Poisson count of mean 50 leaves this range once in a million runs.
    assert 20 < len(outcome.latency_ms) < 90
