"""Both clients have the same methods and behave alike: every case here runs against each of them."""

from __future__ import annotations

import asyncio
import gc
import inspect
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from pinrec_client import (
    AsyncPinRecClient,
    DeadlineExceededError,
    Event,
    InvalidRequestError,
    PinRecClient,
    PinRecClientError,
    RecommendRequest,
    RetryPolicy,
    ServerError,
    UnavailableError,
)
from pinrec_client.channel import Connection, channel_arguments
from pinrec_client.sync import _run
from tritonclient.grpc import InferenceServerClient
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelMetadataRequest, ModelReadyRequest

from tests.client.conftest import Connect
from tests.client.scripted import Answer, Question, ScriptedService, metadata, ready, recommendations, stored, tensors

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
INTERNAL = grpc.StatusCode.INTERNAL
EAGER = RetryPolicy(retries=2, first_pause=0.001)
PATIENCE = 30.0  # seconds: far more than any call of these tests takes, on a busy machine too

SEARCH = Event(user_id=1, action="search", timestamp=100, query="shoes")
LIKE = Event(user_id=1, action="like", timestamp=100, item_id=3)


def _public(client: type) -> dict[str, Callable[..., Any]]:
    methods = inspect.getmembers(client, inspect.isfunction)
    return {name: method for name, method in methods if not name.startswith("_") or name == "__init__"}


# The interface


def test_both_clients_have_the_same_methods():
    blocking, awaited = _public(PinRecClient), _public(AsyncPinRecClient)
    assert blocking.keys() == awaited.keys()
    for name, method in blocking.items():
        assert inspect.signature(method) == inspect.signature(awaited[name]), name
        assert method.__doc__ == awaited[name].__doc__, name
        assert not inspect.iscoroutinefunction(method), name
        assert inspect.iscoroutinefunction(awaited[name]) == (name != "__init__"), name


def test_recommend_takes_each_field_of_a_request():
    """``recommend`` repeats the fields by name, so that editors and ``help`` show them; none may be forgotten."""
    of_recommend = dict(inspect.signature(PinRecClient.recommend).parameters)
    for of_the_call in ("self", "timeout", "request_id", "traceparent"):
        del of_recommend[of_the_call]
    of_request = inspect.signature(RecommendRequest).parameters
    assert list(of_recommend) == list(of_request)
    for name, parameter in of_request.items():
        assert (of_recommend[name].default, of_recommend[name].annotation) == (parameter.default, parameter.annotation)


@pytest.mark.parametrize("given", [{"num_items": 5}, {"query_embedding": [0.5, 1.0]}], ids=["items", "embedding"])
def test_recommend_sends_what_a_request_made_beforehand_sends(
    scripted: ScriptedService, connect: Connect, given: dict[str, Any]
):
    others = {"budget": {"like": 1.0}, "surface": "home", "exclude_seen": True, "request_time": 9, "seed": 3}
    scripted.script(recommendations(3), recommendations(3))
    client = connect(scripted.url, timeout=PATIENCE)
    assert client.recommend(17, **given, **others) == client.send(RecommendRequest(user_id=17, **given, **others))
    first, second = (received.question for received in scripted.received)
    assert first.id != second.id
    first.id = second.id = ""
    for message in (first, second):  # what is left of the timeout, which is a little less at every call
        assert PATIENCE - 1 < message.parameters.pop("timeout").int64_param / 1e6 <= PATIENCE
    assert first == second
    assert len(first.inputs) == 2 + len(given) + len(others)  # the user, and a budget has two tensors


def test_a_client_is_closed_at_the_end_of_its_context(scripted: ScriptedService, connect: Connect):
    scripted.script(recommendations())
    with connect(scripted.url, timeout=PATIENCE) as client:
        assert len(client.recommend(17).items) == 2
    for call in (lambda: client.recommend(17), lambda: client.log_events([LIKE]), client.is_ready):
        with pytest.raises(PinRecClientError, match="the client is closed"):
            call()
    client.close()  # a second time is harmless


# Attempts, deadlines and retries


def test_all_attempts_share_the_request_id_and_the_deadline(
    scripted: ScriptedService, connect: Connect, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(random, "uniform", lambda low, high: high)  # the longest pause
    scripted.script(UNAVAILABLE, recommendations())
    client = connect(scripted.url, timeout=9, retry=RetryPolicy(first_pause=1))
    assert len(client.recommend(17).items) == 2
    first, second = scripted.received
    assert first.question.id == second.question.id
    # A deadline that began anew would move by the pause of 1 s. This one may seem to move by gRPC's rounding (to 10 ms
    # below 10 s) and by the time that a message takes.
    assert abs(second.deadline - first.deadline) < 0.5
    # The service is told the time that is left, too: a pause less.
    told = [received.question.parameters["timeout"].int64_param / 1e6 for received in (first, second)]
    assert 8 < told[0] <= 9
    assert told[1] <= told[0] - 1


def test_a_call_is_tried_three_times_by_default(scripted: ScriptedService, connect: Connect):
    scripted.script(UNAVAILABLE, UNAVAILABLE, UNAVAILABLE)
    with pytest.raises(UnavailableError) as caught:
        connect(scripted.url, timeout=PATIENCE).recommend(17)
    assert [received.question.id for received in scripted.received] == [caught.value.request_id] * 3


def test_a_method_may_be_given_a_time_of_its_own(scripted: ScriptedService, connect: Connect):
    released = threading.Event()

    def wait(_: Question) -> Answer:
        released.wait(PATIENCE)
        return recommendations()

    scripted.answer = wait
    client = connect(scripted.url, timeout=PATIENCE)
    with pytest.raises(DeadlineExceededError):
        client.recommend(17, timeout=0.1)
    (error,) = client.recommend_many([RecommendRequest(user_id=17)], timeout=0.1)
    assert isinstance(error, DeadlineExceededError)
    assert not client.is_ready(timeout=0.1)
    with pytest.raises(DeadlineExceededError):
        client.log_events([LIKE], timeout=0.1)
    with pytest.raises(InvalidRequestError, match="timeout=0"):
        client.recommend(17, timeout=0)
    released.set()
    assert len(client.recommend(17).items) == 2


def test_readiness_is_asked_once(scripted: ScriptedService, connect: Connect):
    client = connect(scripted.url, timeout=PATIENCE, retry=EAGER)
    scripted.script(ready(), ready(False), UNAVAILABLE)
    assert [client.is_ready() for _ in range(3)] == [True, False, False]
    assert all(isinstance(received.question, ModelReadyRequest) for received in scripted.received)
    assert len(scripted.received) == 3
    scripted.script(INTERNAL)
    with pytest.raises(ServerError, match="INTERNAL"):
        client.is_ready()


# Events


def test_the_type_of_item_ids_is_asked_once_and_only_when_no_event_has_an_item(
    scripted: ScriptedService, connect: Connect
):
    client = connect(scripted.url, timeout=PATIENCE)
    scripted.script(stored(1), stored(2), metadata("BYTES"), stored(1), stored(1))
    assert [client.log_events(events) for events in ([LIKE], [SEARCH, LIKE], [SEARCH], [SEARCH])] == [1, 2, 1, 1]
    asked = [type(received.question) for received in scripted.received]
    assert asked == [ModelInferRequest, ModelInferRequest, ModelMetadataRequest, ModelInferRequest, ModelInferRequest]
    types = [
        {tensor.name: tensor.datatype for tensor in received.question.inputs}["event_item_id"]
        for received in scripted.received
        if isinstance(received.question, ModelInferRequest)
    ]
    assert types == ["INT64", "INT64", "BYTES", "BYTES"]


def test_the_question_and_the_write_are_one_call(scripted: ScriptedService, connect: Connect):
    """They share the retries: one attempt at the question fails, then two at the write."""
    scripted.script(UNAVAILABLE, metadata("INT64"), UNAVAILABLE, UNAVAILABLE)
    with pytest.raises(UnavailableError):
        connect(scripted.url, timeout=PATIENCE, retry=EAGER).log_events([SEARCH])
    assert len(scripted.received) == 4


def test_no_event_needs_no_service(scripted: ScriptedService, connect: Connect):
    assert connect(scripted.url).log_events([]) == 0
    assert scripted.received == []


# Errors


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.recommend(17, num_items=0),
        lambda client: client.recommend(17, query="shoes", query_embedding=[1.0]),
        lambda client: client.log_events([LIKE, Event(user_id="u", action="like", timestamp=1, item_id=1)]),
        lambda client: client.recommend_many([], concurrency=0),
    ],
    ids=["request", "two queries", "ids of two types", "concurrency"],
)
def test_what_is_malformed_is_not_sent(scripted: ScriptedService, connect: Connect, call: Callable[[Any], Any]):
    with pytest.raises(InvalidRequestError, match="expected"):
        call(connect(scripted.url))
    assert scripted.received == []


def test_an_answer_outside_the_contract_names_its_call(scripted: ScriptedService, connect: Connect):
    scripted.script(recommendations(2, score=np.zeros((1, 1), np.float32)), tensors())
    client = connect(scripted.url, timeout=PATIENCE, retry=EAGER)
    for call in (lambda: client.recommend(17), lambda: client.log_events([LIKE])):
        with pytest.raises(ServerError, match="expected") as caught:
            call()
        assert caught.value.request_id == scripted.received[-1].question.id
    assert len(scripted.received) == 2


# Many requests


def test_many_requests_run_at_once_and_no_more_than_allowed(scripted: ScriptedService, connect: Connect):
    together = threading.Barrier(3)  # nobody passes it alone: three requests must be in flight at a time
    lock = threading.Lock()
    in_flight, most = 0, 0

    def meet(_: Question) -> Answer:
        nonlocal in_flight, most
        with lock:
            in_flight += 1
            most = max(most, in_flight)
        together.wait(PATIENCE)
        time.sleep(0.05)  # a fourth request, if the client sent one, would arrive now
        with lock:
            in_flight -= 1
        return recommendations(1)

    scripted.answer = meet
    requests = (RecommendRequest(user_id=user) for user in range(12))  # any iterable will do
    answers = connect(scripted.url, timeout=PATIENCE).recommend_many(requests, concurrency=3)
    assert [len(answer.items) for answer in answers] == [1] * 12
    assert most == 3


# What only the blocking client is used for


def test_threads_share_a_blocking_client(scripted: ScriptedService):
    scripted.answer = lambda question: recommendations(question.inputs[1].shape[1])
    with PinRecClient(scripted.url, timeout=PATIENCE) as client, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda user: client.recommend(user, num_items=1), range(40)))
    assert [len(answer.items) for answer in answers] == [1] * 40


def test_a_blocking_client_works_within_a_running_event_loop(scripted: ScriptedService):
    scripted.script(UNAVAILABLE, recommendations())

    async def main() -> int:
        with PinRecClient(scripted.url, timeout=PATIENCE, retry=EAGER) as client:
            return len(client.recommend(17).items)

    assert asyncio.run(main()) == 2


def test_a_coroutine_that_suspends_is_a_mistake():
    with pytest.raises(AssertionError, match="suspended"):
        _run(asyncio.sleep(0))


def test_a_channel_is_closed_once(monkeypatch: pytest.MonkeyPatch):
    """gRPC under gevent counts what is closed."""
    closed = []
    client = PinRecClient(["127.0.0.1:1", "127.0.0.1:2"])
    for url, channel in client._channels.by_url.items():
        monkeypatch.setattr(channel, "close", lambda url=url: closed.append(url))
    client.close()
    client.close()
    assert sorted(closed) == ["127.0.0.1:1", "127.0.0.1:2"]


def test_a_connection_for_tools_is_closed_once(monkeypatch: pytest.MonkeyPatch):
    """tritonclient's own class closes again when it is garbage-collected."""
    closed = []
    close = InferenceServerClient.close
    monkeypatch.setattr(InferenceServerClient, "close", lambda connection: (closed.append(1), close(connection)))
    connection = Connection(**channel_arguments("127.0.0.1:1", tls=None))
    connection.close()
    connection.close()
    del connection
    gc.collect()
    assert len(closed) == 1
