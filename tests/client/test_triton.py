"""Both clients against the real Triton: ids, errors, retries, deadlines, draining, concurrency."""

from __future__ import annotations

import json
import threading

import pytest
from pinrec_client import (
    DeadlineExceededError,
    Event,
    InvalidRequestError,
    PinRecClientError,
    RecommendRequest,
    RetryPolicy,
    ServerError,
    UnavailableError,
)
from pinrec_client.__main__ import main

from tests.client.conftest import Connect, StandIn

pytestmark = pytest.mark.triton


@pytest.fixture
def connect(connect: Connect) -> Connect:
    """Either client, with time enough for a busy machine and a retry more than the default."""
    retry = RetryPolicy(retries=3, first_pause=0.01)
    return lambda url, **arguments: connect(url, **{"retry": retry, "timeout": 10, **arguments})


def test_the_request_arrives_and_the_answer_returns(integer_service: StandIn, connect: Connect):
    client = connect(integer_service.url)
    answer = client.recommend(
        -17,
        num_items=4,
        budget={"save": 0.25, "like": 0.75},
        surface="home",
        query="größe 38",
        exclude_seen=True,
        request_time=1_700_000_000,
        seed=9,
    )
    received = json.loads(answer.release)
    assert len(received.pop("request_id")) == 32
    assert received.pop("attempts") == 1
    assert received == {
        "user_id": [-17],
        "num_items": [4],
        "budget": [0.25, 0.75],
        "budget_outcome": ["save", "like"],
        "surface": ["home"],
        "query": ["größe 38"],
        "exclude_seen": [True],
        "request_time": [1_700_000_000],
        "seed": [9],
    }
    assert [(item.rank, item.item_id, item.outcome) for item in answer.items] == [
        (1, 1, "like"),
        (2, 2, "save"),
        (3, 3, "like"),
        (4, 4, "save"),
    ]
    assert answer.items[0].score == 1.0


def test_an_embedding_arrives(integer_service: StandIn, connect: Connect):
    answer = connect(integer_service.url).recommend(17, query_embedding=[0.5, -1.0])
    assert json.loads(answer.release)["query_embedding"] == [0.5, -1.0]


def test_many_requests_need_at_least_one_at_a_time(integer_service: StandIn, connect: Connect):
    client = connect(integer_service.url)
    with pytest.raises(InvalidRequestError, match="concurrency=0: expected at least 1"):
        client.recommend_many([RecommendRequest(user_id=17)], concurrency=0)


def test_only_the_user_need_be_sent(integer_service: StandIn, connect: Connect):
    received = json.loads(connect(integer_service.url).recommend(5).release)
    assert set(received) == {"user_id", "request_id", "attempts"}


def test_no_items(integer_service: StandIn, connect: Connect):
    assert connect(integer_service.url).recommend(5, surface="empty").items == ()


def test_string_ids(string_service: StandIn, connect: Connect):
    client = connect(string_service.url)
    answer = client.recommend("Zoë 17", num_items=2)
    assert json.loads(answer.release)["user_id"] == ["Zoë 17"]
    assert [item.item_id for item in answer.items] == ["item ü1", "item ü2"]


def test_ids_of_the_wrong_type_are_refused(integer_service: StandIn, string_service: StandIn, connect: Connect):
    with pytest.raises(InvalidRequestError, match="user_id"):
        connect(integer_service.url).recommend("17")
    with pytest.raises(InvalidRequestError, match="user_id"):
        connect(string_service.url).recommend(17)


@pytest.mark.parametrize(
    ("code", "error_class"),
    [
        ("INVALID_ARG", InvalidRequestError),
        ("UNAVAILABLE", UnavailableError),
        ("INTERNAL", ServerError),
        ("NOT_FOUND", ServerError),
        ("UNSUPPORTED", ServerError),
        ("CANCELLED", ServerError),
    ],
)
def test_error_codes(integer_service: StandIn, connect: Connect, code: str, error_class: type[PinRecClientError]):
    with pytest.raises(PinRecClientError) as caught:
        connect(integer_service.url).recommend(5, surface=f"error:{code}")
    assert type(caught.value) is error_class
    assert "user_id=-1: expected something else" in str(caught.value)
    assert "in ensemble" not in str(caught.value)
    assert len(caught.value.request_id) == 32


def test_an_unavailable_service_is_tried_again_with_the_same_request_id(integer_service: StandIn, connect: Connect):
    received = json.loads(connect(integer_service.url).recommend(5, surface="unavailable:3").release)
    assert received["attempts"] == 4
    with pytest.raises(UnavailableError):
        connect(integer_service.url).recommend(5, surface="unavailable:4")


def test_the_deadline_holds(integer_service: StandIn, connect: Connect):
    client = connect(integer_service.url)
    with pytest.raises(DeadlineExceededError):
        client.recommend(5, surface="wait:1", timeout=0.2)
    assert client.recommend(5, surface="wait:0.1").items


def test_a_draining_service_is_unavailable(integer_service: StandIn, connect: Connect):
    client = connect(integer_service.url)
    assert client.is_ready()
    integer_service.unload("pinrec")
    try:
        assert not client.is_ready()
        with pytest.raises(UnavailableError, match="starting or draining"):
            client.recommend(5)
    finally:
        integer_service.load("pinrec")
    assert client.is_ready()
    assert client.recommend(5).items


def test_a_retry_outlives_a_short_absence(integer_service: StandIn, connect: Connect):
    client = connect(integer_service.url, retry=RetryPolicy(retries=200, longest_pause=0.2))
    integer_service.unload("pinrec")
    back = threading.Timer(0.5, integer_service.load, ["pinrec"])
    back.start()
    try:
        assert client.recommend(5).items
    finally:
        back.join()


def test_nobody_listens(connect: Connect):
    client = connect("127.0.0.1:1")
    assert not client.is_ready()
    with pytest.raises(UnavailableError):
        client.recommend(5)


def test_many_requests_keep_their_order(integer_service: StandIn, connect: Connect):
    requests = [
        RecommendRequest(user_id=user, num_items=1 + user % 5, surface="error:INTERNAL" if user == 13 else "home")
        for user in range(40)
    ]
    answers = connect(integer_service.url).recommend_many(requests, concurrency=6)
    assert isinstance(answers[13], ServerError)
    for user, answer in enumerate(answers):
        if user != 13:
            assert json.loads(answer.release)["user_id"] == [user]
            assert len(answer.items) == 1 + user % 5


def test_events_are_stored(integer_service: StandIn, connect: Connect):
    client = connect(integer_service.url)
    events = [Event(user_id=1, action="like", timestamp=100 + i, item_id=i) for i in range(3)]
    events.append(Event(user_id=1, action="search", timestamp=200, query="shoes"))
    assert client.log_events(events) == 4
    assert client.log_events(events[:2]) == 2  # stored before: the same answer
    assert client.log_events([]) == 0


def test_an_event_write_is_tried_again(integer_service: StandIn, connect: Connect):
    event = Event(user_id=1, action="like", timestamp=100, item_id=1, surface="unavailable:2")
    assert connect(integer_service.url).log_events([event]) == 1


def test_a_search_alone_takes_the_type_of_item_ids_from_the_server(
    integer_service: StandIn, string_service: StandIn, connect: Connect
):
    search = {"action": "search", "timestamp": 100, "query": "shoes"}
    assert connect(integer_service.url).log_events([Event(user_id=1, **search)]) == 1
    assert connect(string_service.url).log_events([Event(user_id="u1", **search)]) == 1


def test_command_line(integer_service: StandIn, capsys: pytest.CaptureFixture[str]):
    common = ["--url", integer_service.url, "--timeout", "10"]
    assert main(["recommend", "17", "--num-items", "2", "--budget", "like=.5,save=.5", "--json", *common]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["user_id"] == 17
    assert [item["item_id"] for item in printed["items"]] == [1, 2]
    assert json.loads(printed["release"])["budget_outcome"] == ["like", "save"]

    assert main(["recommend", "17", *common]) == 0
    assert "user 17, release" in capsys.readouterr().out

    assert main(["log-event", "17", "like", "--item", "5", "--json", *common]) == 0
    assert json.loads(capsys.readouterr().out)["stored"] == 1

    assert main(["recommend", "17", "--num-items", "0", *common]) == 2
    assert "InvalidRequestError: num_items=0" in capsys.readouterr().err
    assert main(["recommend", "17", "--surface", "error:INTERNAL", *common]) == 1
