"""Both clients when a service refuses, dies, drains or closes its door: which attempts are made, and where."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from pinrec_client import (
    AuthenticationError,
    DeadlineExceededError,
    Event,
    InvalidRequestError,
    PinRecClient,
    PinRecClientError,
    RecommendRequest,
    RetryPolicy,
    UnavailableError,
    user_share,
)
from pinrec_client.__main__ import main
from pinrec_client.endpoints import FAILURES, LIGHT_FAILURES, Endpoints

from tests.client.conftest import Connect
from tests.client.scripted import (
    DRAINING,
    Answer,
    Question,
    Refusal,
    ScriptedService,
    ready,
    recommendations,
    scripted_service,
    stored,
)
from tests.client.vanishing import machine_before

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
EAGER = RetryPolicy(first_pause=0.001)
PATIENCE = 30.0  # seconds: far more than any call of these tests takes, on a busy machine too
LIKE = Event(user_id=1, action="like", timestamp=100, item_id=3)

Pair = tuple[ScriptedService, ScriptedService]


# What the service asks for


def test_a_refused_call_comes_back_after_the_time_that_the_service_named(scripted: ScriptedService, connect: Connect):
    scripted.script(Refusal("200"), recommendations())
    assert len(connect(scripted.url, timeout=PATIENCE, retry=EAGER).recommend(17).items) == 2
    first, second = scripted.received
    assert second.at - first.at >= 0.2


def test_a_time_that_does_not_fit_ends_the_call(scripted: ScriptedService, connect: Connect):
    scripted.script(Refusal("60000"))
    with pytest.raises(UnavailableError) as caught:
        connect(scripted.url, timeout=PATIENCE).recommend(17)
    assert caught.value.retry_after == 60
    assert caught.value.endpoint == scripted.url
    assert len(scripted.received) == 1


@pytest.mark.parametrize("pushback", ["-1", "soon"])
def test_a_service_may_forbid_the_retry(scripted: ScriptedService, connect: Connect, pushback: str):
    scripted.script(Refusal(pushback))
    with pytest.raises(UnavailableError):
        connect(scripted.url, timeout=PATIENCE).recommend(17)
    assert len(scripted.received) == 1


def test_an_exhausted_service_is_unavailable(scripted: ScriptedService, connect: Connect):
    scripted.script(grpc.StatusCode.RESOURCE_EXHAUSTED, recommendations())
    assert connect(scripted.url, timeout=PATIENCE, retry=EAGER).recommend(17).items


# The retry budget


def test_the_calls_of_a_client_share_a_retry_budget(scripted: ScriptedService, connect: Connect):
    """Ten tokens. Two calls make three and two attempts, then half of the tokens are gone, and each call makes one."""
    scripted.answer = lambda _: UNAVAILABLE
    client = connect(scripted.url, timeout=PATIENCE, retry=RetryPolicy(first_pause=0.001, budget=10))
    for _ in range(20):
        with pytest.raises(UnavailableError):
            client.recommend(17)
    attempts = Counter(received.question.id for received in scripted.received)
    assert list(attempts.values()) == [3, 2] + [1] * 18

    # No token is left. Seventy successes bring back seven, and a call is tried again.
    scripted.answer = lambda _: recommendations()
    for _ in range(70):
        client.recommend(17)
    scripted.script(UNAVAILABLE, recommendations())
    assert client.recommend(17).items


def test_threads_share_the_budget(scripted: ScriptedService):
    scripted.answer = lambda _: UNAVAILABLE
    policy = RetryPolicy(retries=5, first_pause=0.001, budget=20)
    with PinRecClient(scripted.url, timeout=PATIENCE, retry=policy) as client:
        client.recommend_many([RecommendRequest(user_id=user) for user in range(100)], concurrency=8)
    # The tenth failure brings the tokens to their half. Of the nine before it, those of seven other threads may be
    # noted at the same moment as the tenth, before they ask for a retry.
    assert 100 + 9 - 7 <= len(scripted.received) <= 100 + 9


def test_a_service_that_is_down_gets_little_more_than_an_attempt_per_call(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
):
    attempts = []
    choose = Endpoints.choose
    monkeypatch.setattr(Endpoints, "choose", lambda *arguments: (attempts.append(1), choose(*arguments))[1])
    client = connect("127.0.0.1:1", timeout=PATIENCE, retry=RetryPolicy(first_pause=0.001, budget=10))
    for _ in range(20):
        with pytest.raises(UnavailableError):
            client.recommend(17)
    assert len(attempts) == 3 + 2 + 18


# Several endpoints


def test_calls_take_turns(pair: Pair, connect: Connect):
    client = connect([service.url for service in pair], timeout=PATIENCE)
    assert sorted(len(client.recommend(user).items) for user in range(6)) == [1, 1, 1, 2, 2, 2]


def test_a_retry_goes_to_another_endpoint(pair: Pair, connect: Connect):
    first, second = pair
    first.answer = lambda _: Refusal("0")  # it is healthy and bounds its load: it is not left out
    client = connect(f"{first.url},{second.url}", timeout=PATIENCE, retry=EAGER)
    assert [len(client.recommend(user).items) for user in range(10)] == [1] * 10
    assert len(second.received) == 10
    assert len(first.received) == 5  # every other call begins there and goes on elsewhere


def test_an_endpoint_that_only_refuses_is_left_out_before_the_budget_is_spent(pair: Pair, connect: Connect):
    """As a proxy does that has no server behind it."""
    first, second = pair
    first.answer = lambda _: Refusal("1")
    client = connect([first.url, second.url], timeout=PATIENCE, retry=EAGER)
    assert [len(client.recommend(user).items) for user in range(200)] == [1] * 200
    # Without being left out it would have had half of the calls. It may return for a trial while the test is slow.
    assert LIGHT_FAILURES <= len(first.received) < 60


def test_an_endpoint_that_drains_is_left_out(pair: Pair, connect: Connect):
    first, second = pair
    first.answer = lambda _: DRAINING
    client = connect([first.url, second.url], timeout=PATIENCE, retry=EAGER)
    assert [len(client.recommend(user).items) for user in range(30)] == [1] * 30
    # Without being left out it would have had half of the calls. It may return for a trial while the test is slow.
    assert FAILURES <= len(first.received) < 10


def test_an_endpoint_that_was_killed_is_left_out_and_comes_back(connect: Connect):
    with scripted_service() as stays:
        stays.answer = lambda _: recommendations(1)
        with scripted_service() as dies:
            dies.answer = lambda _: recommendations(2)
            client = connect([stays.url, dies.url], timeout=PATIENCE, retry=EAGER)
            assert {len(client.recommend(user).items) for user in range(4)} == {1, 2}
        assert {len(client.recommend(user).items) for user in range(20)} == {1}
        with scripted_service(port=int(dies.url.rpartition(":")[2])) as returned:
            returned.answer = lambda _: recommendations(3)
            end = time.monotonic() + PATIENCE
            while not returned.received and time.monotonic() < end:
                assert len(client.recommend(17).items) in (1, 3)
                time.sleep(0.05)
            assert sorted(len(client.recommend(user).items) for user in range(4)) == [1, 1, 3, 3]


def test_a_machine_that_vanishes_behind_a_name_is_given_up(pair: Pair, connect: Connect):
    """It acknowledges nothing and sends no reset. The system itself waits a quarter of an hour for it."""
    stays, vanishes = pair
    with machine_before(vanishes.url) as machine:
        client = connect([f"ipv4:{stays.url},{machine.url}"], timeout=0.5)  # like a name with two addresses
        end = time.monotonic() + PATIENCE
        while {len(service.received) > 0 for service in pair} != {True}:
            assert time.monotonic() < end
            client.recommend(17, timeout=PATIENCE)
        machine.vanish()
        answered = 0  # in a row; calls of one channel take turns
        while answered < 10:
            assert time.monotonic() < end
            try:
                client.recommend(17)
                answered += 1
            except (DeadlineExceededError, UnavailableError):
                answered = 0


def test_late_attempts_that_find_no_answer_do_not_count_against_their_endpoint(pair: Pair, connect: Connect):
    """One endpoint refuses when most of the time has passed, and the other has no answer to what comes then."""
    client = connect([service.url for service in pair], timeout=1, retry=EAGER)
    refuses, other = pair
    late: set[str] = set()

    def refuse_late(question: Question) -> Answer:
        time.sleep(0.6)
        late.add(question.id)
        return Refusal("0")

    def no_answer_when_late(question: Question) -> Answer:
        # What is malformed counts neither for an endpoint nor against it.
        return grpc.StatusCode.DEADLINE_EXCEEDED if question.id in late else grpc.StatusCode.INVALID_ARGUMENT

    refuses.answer, other.answer = refuse_late, no_answer_when_late
    while sum(received.question.id in late for received in other.received) < FAILURES:
        with pytest.raises((DeadlineExceededError, InvalidRequestError, UnavailableError)):
            client.recommend(17)
    refuses.answer = other.answer = lambda _: recommendations()
    before = len(other.received)
    for user in range(4):
        client.recommend(user)
    assert len(other.received) == before + 2


def test_a_service_is_ready_when_one_endpoint_is(pair: Pair, connect: Connect):
    first, second = pair
    client = connect([first.url, "127.0.0.1:1", second.url], timeout=PATIENCE)
    first.answer = lambda _: ready(False)
    second.answer = lambda _: ready()
    assert client.is_ready()
    second.answer = lambda _: DRAINING
    assert not client.is_ready()


# Recommendations and events


def test_writes_that_fail_spend_no_retries_of_recommendations(scripted: ScriptedService, connect: Connect):
    client = connect(scripted.url, timeout=PATIENCE, retry=RetryPolicy(first_pause=0.001, budget=10))
    scripted.answer = lambda _: UNAVAILABLE
    for _ in range(20):
        with pytest.raises(UnavailableError):
            client.log_events([LIKE])
    scripted.script(UNAVAILABLE, recommendations())
    assert client.recommend(17).items


@pytest.mark.parametrize("failing", ["signal_ingest", "pinrec"])
def test_an_endpoint_is_left_out_for_the_model_that_fails_there(pair: Pair, connect: Connect, failing: str):
    first, second = pair

    def answer(question: Question) -> Answer:
        return stored(1) if question.model_name == "signal_ingest" else recommendations()

    first.answer = lambda question: DRAINING if question.model_name == failing else answer(question)
    second.answer = answer
    client = connect([service.url for service in pair], timeout=PATIENCE, retry=EAGER)
    calls = {"signal_ingest": lambda: client.log_events([LIKE]), "pinrec": lambda: client.recommend(17)}
    fails = calls.pop(failing)
    (works,) = calls.values()
    for _ in range(2 * FAILURES):
        fails()
    before = len(first.received)
    for _ in range(6):
        works()
    assert len(first.received) == before + 3


# What goes beside a message


def test_key_share_trace_and_id_reach_the_server(scripted: ScriptedService, connect: Connect):
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    client = connect(scripted.url, timeout=PATIENCE, api_key="s3cret")
    scripted.script(recommendations(), stored(1), recommendations(), ready())
    client.recommend(17, request_id="order-5", traceparent=traceparent)
    client.log_events([LIKE], request_id="order-6", traceparent=traceparent)
    client.recommend_many([RecommendRequest(user_id="17")], traceparent=traceparent)
    client.is_ready()
    recommended, written, many, probed = scripted.received
    assert [received.question.id for received in (recommended, written)] == ["order-5", "order-6"]
    assert {received.metadata.get("authorization") for received in scripted.received} == {"Bearer s3cret"}
    share = str(user_share(17))
    shares = [received.metadata.get("pinrec-user") for received in scripted.received]
    assert shares == [share, None, share, None]
    traces = [received.metadata.get("traceparent") for received in scripted.received]
    assert traces == [traceparent, traceparent, traceparent, None]
    assert "s3cret" not in repr(vars(client)) + repr(client)
    assert len(many.question.id) == 32
    assert probed.question.name == "pinrec"


def test_a_retry_carries_the_same_metadata(scripted: ScriptedService, connect: Connect):
    scripted.script(UNAVAILABLE, recommendations())
    connect(scripted.url, timeout=PATIENCE, retry=EAGER, api_key="s3cret").recommend(17)
    sent = ("authorization", "pinrec-user")
    first, second = ({name: received.metadata[name] for name in sent} for received in scripted.received)
    assert first == second


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED])
def test_a_refused_key_is_not_tried_again(scripted: ScriptedService, connect: Connect, status: grpc.StatusCode):
    scripted.answer = lambda _: Refusal(None, status, "s3cret is no key of ours")
    client = connect(scripted.url, timeout=PATIENCE, api_key="s3cret")
    for call in (lambda: client.recommend(17), lambda: client.log_events([LIKE]), client.is_ready):
        with pytest.raises(AuthenticationError, match=status.name) as caught:
            call()
        assert "s3cret" not in str(caught.value)
    assert len(scripted.received) == 3


def test_the_command_line_takes_the_key_from_the_environment_and_several_urls(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PINREC_API_KEY", "s3cret")
    common = ["--url", ",".join(service.url for service in pair), "--timeout", str(PATIENCE)]
    first, second = pair
    first.answer = lambda _: Refusal("0")
    second.answer = lambda _: recommendations()
    assert main(["recommend", "17", *common]) == 0
    second.answer = lambda _: stored(1)
    assert main(["log-event", "17", "like", "--item", "5", *common]) == 0
    assert {received.metadata["authorization"] for received in first.received + second.received} == {"Bearer s3cret"}
    second.answer = lambda _: grpc.StatusCode.PERMISSION_DENIED
    assert main(["recommend", "17", *common]) == 1
    printed = capsys.readouterr()
    assert "AuthenticationError: PERMISSION_DENIED" in printed.err
    assert "s3cret" not in printed.out + printed.err


def test_what_is_malformed_beside_a_message_is_not_sent(scripted: ScriptedService, connect: Connect):
    client = connect(scripted.url)
    for arguments in ({"request_id": ""}, {"traceparent": "x"}):
        with pytest.raises(InvalidRequestError, match="expected"):
            client.recommend(17, **arguments)
    for arguments in ({"api_key": "two words"}, {"hedge_after": 0}):
        with pytest.raises(InvalidRequestError, match="expected"):
            connect(scripted.url, **arguments)
    assert scripted.received == []


# Closing


@pytest.mark.parametrize("hedge_after", [None, PATIENCE], ids=["plain", "hedging"])
def test_closing_ends_a_call_in_flight(scripted: ScriptedService, hedge_after: float | None):
    """The asyncio client's counterpart is in test_hedging.py, beside cancelled tasks."""
    arrived, released = threading.Event(), threading.Event()

    def wait(_: object) -> object:
        arrived.set()
        released.wait(PATIENCE)
        return recommendations()

    scripted.answer = wait  # type: ignore[assignment]
    client = PinRecClient(scripted.url, timeout=PATIENCE, hedge_after=hedge_after)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.recommend, 17)
        assert arrived.wait(PATIENCE)
        client.close()
        with pytest.raises(PinRecClientError, match="the client is closed"):
            call.result(PATIENCE / 2)  # well before the call's own deadline
        released.set()
    assert len(scripted.received) == 1
