"""A second attempt for a recommendation that takes long: which answer wins, and that the loser is cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import grpc
import pytest
from pinrec_client import (
    AsyncPinRecClient,
    DeadlineExceededError,
    Event,
    InvalidRequestError,
    PinRecClientError,
    RetryPolicy,
    UnavailableError,
)

from tests.client.conftest import Connect
from tests.client.scripted import Answer, Question, ScriptedService, recommendations, stored

PATIENCE = 30.0  # seconds: far more than any call of these tests takes, on a busy machine too
AT_ONCE = 10.0  # seconds: an attempt that nobody cancels lasts three times as long
SOON = 0.02  # seconds after which a second attempt is made
LIKE = Event(user_id=1, action="like", timestamp=100, item_id=3)

Pair = tuple[ScriptedService, ScriptedService]


class Gate:
    """Answers of a service that wait until the test opens the gate."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._opened = threading.Event()
        self.arrived = threading.Semaphore(0)

    def __call__(self, _: Question) -> Answer:
        self.arrived.release()
        self._opened.wait(PATIENCE)
        return self._answer

    def open(self) -> None:
        self._opened.set()


def _in_order(pair: Pair, client: object) -> Pair:
    """The replicas in the order in which the next call reaches them."""
    first, second = pair
    endpoints = getattr(client, "_client", client)
    endpoints = getattr(endpoints, "_methods", endpoints)._recommendations.endpoints
    return (first, second) if endpoints.all[endpoints._turn].url == first.url else (second, first)


def _hedging(connect: Connect, pair: Pair, **arguments: object) -> tuple[object, ScriptedService, ScriptedService]:
    client = connect([service.url for service in pair], timeout=PATIENCE, hedge_after=SOON, **arguments)
    return client, *_in_order(pair, client)


def test_the_second_attempt_wins_and_the_first_is_cancelled(pair: Pair, connect: Connect):
    client, slow, quick = _hedging(connect, pair)
    gate = slow.answer = Gate(recommendations(5))
    # Not before the first attempt has arrived, which takes a busy machine longer than the second has to wait.
    quick.answer = lambda _: recommendations(3) if gate.arrived.acquire(timeout=PATIENCE) else recommendations(4)
    assert len(client.recommend(17).items) == 3
    (lost,), (won,) = slow.received, quick.received
    assert lost.ended.wait(AT_ONCE)  # though its answer is still waiting
    gate.open()
    # Each attempt tells the time that is left when it begins.
    told = [received.question.parameters.pop("timeout").int64_param / 1e6 for received in (lost, won)]
    assert told[1] < told[0] - SOON / 2
    assert lost.question == won.question
    assert lost.metadata["pinrec-user"] == won.metadata["pinrec-user"]


def test_the_first_attempt_wins_and_the_second_is_cancelled(pair: Pair, connect: Connect):
    client, first, second = _hedging(connect, pair)
    gate = first.answer = Gate(recommendations(5))
    other_gate = second.answer = Gate(recommendations(3))
    opener = threading.Thread(target=lambda: (other_gate.arrived.acquire(timeout=PATIENCE), gate.open()))
    opener.start()
    assert len(client.recommend(17).items) == 5
    opener.join()
    assert second.received[0].ended.wait(AT_ONCE)
    other_gate.open()


def test_both_attempts_may_go_to_one_endpoint(scripted: ScriptedService, connect: Connect):
    gate = Gate(recommendations(5))
    answers: list[Callable[[Question], Answer]] = [gate, lambda _: recommendations(3)]
    scripted.answer = lambda question: answers.pop(0)(question)
    assert len(connect(scripted.url, timeout=PATIENCE, hedge_after=SOON).recommend(17).items) == 3
    assert scripted.received[0].ended.wait(AT_ONCE)
    gate.open()


def test_an_answer_in_time_needs_no_second_attempt(pair: Pair, connect: Connect):
    client = connect([service.url for service in pair], timeout=PATIENCE, hedge_after=PATIENCE)
    for user in range(4):
        client.recommend(user)
    assert [len(service.received) for service in pair] == [2, 2]


def test_by_default_and_for_events_there_is_none(pair: Pair, connect: Connect):
    gates = [Gate(recommendations()), Gate(stored(1))]
    for service, gate in zip(pair, gates, strict=True):
        service.answer = gate
    urls = [service.url for service in pair]
    with pytest.raises(DeadlineExceededError):
        connect(urls, timeout=1).recommend(17)
    with pytest.raises(DeadlineExceededError):
        connect(urls, timeout=1, hedge_after=SOON).log_events([LIKE])
    assert sum(len(service.received) for service in pair) == 2
    for gate in gates:
        gate.open()


def test_second_attempts_stop_when_the_budget_is_spent(pair: Pair, connect: Connect):
    """Two tokens pay for one of them; another would leave less than half."""
    client, *services = _hedging(connect, pair, retry=RetryPolicy(budget=2))
    gates = [Gate(recommendations()), Gate(recommendations())]
    for service, gate in zip(services, gates, strict=True):
        service.answer = gate
    for _ in range(2):
        with pytest.raises(DeadlineExceededError):
            client.recommend(17, timeout=1)  # long enough for both attempts to arrive
    assert sum(len(service.received) for service in services) == 2 + 1
    for gate in gates:
        gate.open()


def test_an_endpoint_that_hangs_is_left_out_before_the_budget_is_spent(pair: Pair, connect: Connect):
    """Half of the calls begin there. Were it not left out, their hedges would spend the budget after some sixty calls,
    and the next ones would wait for it in vain."""
    # Longer than the healthy replica takes on a busy machine: its own calls would be hedged and spend the budget too.
    client = connect([service.url for service in pair], timeout=2, hedge_after=0.1)
    hangs, answers = _in_order(pair, client)
    gate = hangs.answer = Gate(recommendations(5))
    answers.answer = lambda _: recommendations(3)
    assert [len(client.recommend(user).items) for user in range(100)] == [3] * 100
    gate.open()


def test_the_second_attempt_outlives_the_refusal_of_the_first(pair: Pair, connect: Connect):
    client, first, second = _hedging(connect, pair)
    gate = first.answer = Gate(grpc.StatusCode.UNAVAILABLE)
    other_gate = second.answer = Gate(recommendations(3))

    def refuse_then_answer() -> None:
        other_gate.arrived.acquire(timeout=PATIENCE)
        gate.open()
        first.received[0].ended.wait(AT_ONCE)
        other_gate.open()

    opener = threading.Thread(target=refuse_then_answer)
    opener.start()
    assert len(client.recommend(17).items) == 3
    opener.join()
    assert [len(service.received) for service in (first, second)] == [1, 1]


def test_two_refusals_are_tried_again_once(pair: Pair, connect: Connect):
    client, first, second = _hedging(connect, pair, retry=RetryPolicy(retries=1, first_pause=0.001))
    gate, other_gate = first.answer, second.answer = (
        Gate(grpc.StatusCode.UNAVAILABLE),
        Gate(grpc.StatusCode.UNAVAILABLE),
    )

    def refuse_both() -> None:
        other_gate.arrived.acquire(timeout=PATIENCE)
        gate.open()
        other_gate.open()

    opener = threading.Thread(target=refuse_both)
    opener.start()
    with pytest.raises(UnavailableError):
        client.recommend(17)
    opener.join()
    assert len(first.received) + len(second.received) == 2 + 1


def test_a_malformed_request_ends_both_attempts(pair: Pair, connect: Connect):
    client, first, second = _hedging(connect, pair)
    gate = first.answer = Gate(recommendations())
    second.answer = lambda _: grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(InvalidRequestError):
        client.recommend(17)
    assert first.received[0].ended.wait(AT_ONCE)
    gate.open()


# asyncio alone


async def _arrival(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.arrived.acquire, timeout=PATIENCE)


@pytest.mark.parametrize("hedge_after", [None, SOON], ids=["one attempt", "two attempts"])
def test_a_cancelled_task_cancels_its_attempts(pair: Pair, hedge_after: float | None):
    gates = [Gate(recommendations()), Gate(recommendations())]
    for service, gate in zip(pair, gates, strict=True):
        service.answer = gate

    async def main() -> None:
        async with AsyncPinRecClient([s.url for s in pair], timeout=PATIENCE, hedge_after=hedge_after) as client:
            first, second = _in_order(pair, client)
            call = asyncio.create_task(client.recommend(17))
            await _arrival(first.answer)  # type: ignore[arg-type]
            if hedge_after is not None:
                await _arrival(second.answer)  # type: ignore[arg-type]
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            for service in pair:
                for received in service.received:
                    assert await asyncio.to_thread(received.ended.wait, AT_ONCE)

    asyncio.run(main())
    for gate in gates:
        gate.open()


def test_a_task_that_is_cancelled_stays_cancelled_when_its_client_is_closed_too(scripted: ScriptedService):
    """Python before 3.11 cannot tell the two apart; there the test says nothing."""
    gate = scripted.answer = Gate(recommendations())

    async def main() -> None:
        client = AsyncPinRecClient(scripted.url, timeout=PATIENCE)
        call = asyncio.create_task(client.recommend(17))
        await _arrival(gate)
        call.cancel()
        await client.close()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(main())
    gate.open()


@pytest.mark.parametrize("hedge_after", [None, SOON], ids=["one attempt", "two attempts"])
def test_closing_ends_a_call_in_flight(pair: Pair, hedge_after: float | None):
    gates = [Gate(recommendations()), Gate(recommendations())]
    for service, gate in zip(pair, gates, strict=True):
        service.answer = gate

    async def main() -> None:
        client = AsyncPinRecClient([service.url for service in pair], timeout=PATIENCE, hedge_after=hedge_after)
        first, second = _in_order(pair, client)
        call = asyncio.create_task(client.recommend(17))
        await _arrival(first.answer)  # type: ignore[arg-type]
        if hedge_after is not None:
            await _arrival(second.answer)  # type: ignore[arg-type]
        await client.close()
        with pytest.raises(PinRecClientError, match="the client is closed"):
            await call

    asyncio.run(main())
    for gate in gates:
        gate.open()
