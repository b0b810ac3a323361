"""Requests become the tensors of the contract, and tensors become answers. No server is needed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pinrec_client import Event, InvalidRequestError, RecommendRequest, ServerError, codec, contract
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype

from tests.client.scripted import metadata, recommendations, tensors

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def _sent(message: ModelInferRequest) -> dict[str, list]:
    """Read back what the wire carries, as name → values. Checks shapes and types on the way."""
    values = {}
    for tensor, content in zip(message.inputs, message.raw_input_contents, strict=True):
        if tensor.datatype == "BYTES":
            read = [value.decode("utf-8") for value in deserialize_bytes_tensor(content)]
        else:
            read = np.frombuffer(content, triton_to_np_dtype(tensor.datatype)).tolist()
        expected = {**contract.REQUEST, **contract.EVENTS}[tensor.name]
        assert tensor.datatype in (("INT64", "BYTES") if expected == contract.ID else (expected,))
        assert tensor.shape == [1, len(read)]
        values[tensor.name] = read
    return values


def test_a_message_names_its_model_and_its_call():
    message = codec.encode_request(RecommendRequest(user_id=17), "id-1")
    assert (message.model_name, message.id) == ("pinrec", "id-1")
    like = Event(user_id=1, action="like", timestamp=1, item_id=1)
    message = codec.encode_events([like], 0, "id-2")
    assert (message.model_name, message.id) == ("signal_ingest", "id-2")


def test_what_is_not_given_is_not_sent():
    assert _sent(codec.encode_request(RecommendRequest(user_id=17))) == {"user_id": [17]}


def test_every_field_is_sent():
    request = RecommendRequest(
        user_id="ü17",
        num_items=5,
        budget={"like": 0.75, "save": 0.25},
        surface="",
        query="rote Schuhe",
        exclude_seen=False,
        request_time=1_700_000_000,
        seed=3,
    )
    assert _sent(codec.encode_request(request)) == {
        "user_id": ["ü17"],
        "num_items": [5],
        "budget": [0.75, 0.25],
        "budget_outcome": ["like", "save"],
        "surface": [""],
        "query": ["rote Schuhe"],
        "exclude_seen": [False],
        "request_time": [1_700_000_000],
        "seed": [3],
    }


def test_an_embedding_takes_the_place_of_the_text():
    sent = _sent(codec.encode_request(RecommendRequest(user_id=17, query_embedding=[0.5, -0.5])))
    assert sent == {"user_id": [17], "query_embedding": [0.5, -0.5]}


@given(user_id=INT64 | TEXT, query=TEXT)
def test_ids_and_texts_arrive_as_they_were(user_id: int | str, query: str):
    sent = _sent(codec.encode_request(RecommendRequest(user_id=user_id, query=query)))
    assert sent == {"user_id": [user_id], "query": [query]}


@given(st.lists(st.tuples(INT64, INT64 | st.none()), min_size=1, max_size=5))
def test_events_arrive_in_order(pairs: list[tuple[int, int | None]]):
    events = [
        Event(user_id=u, action="a", timestamp=i, item_id=item, query="q" if item is None else None)
        for i, (u, item) in enumerate(pairs, start=1)
    ]
    sent = _sent(codec.encode_events(events, 0))
    assert sent.keys() == contract.EVENTS.keys()
    assert sent["event_user_id"] == [u for u, _ in pairs]
    assert sent["event_item_id"] == [0 if item is None else item for _, item in pairs]
    assert sent["event_query"] == ["q" if item is None else "" for _, item in pairs]
    assert sent["event_timestamp"] == list(range(1, len(pairs) + 1))


def test_what_stands_for_no_item_has_the_type_of_the_items():
    search = Event(user_id=1, action="search", timestamp=1, query="shoes")
    assert codec.no_item_beside([search, Event(user_id=1, action="like", timestamp=1, item_id="x")]) == ""
    assert codec.no_item_beside([search, Event(user_id=1, action="like", timestamp=1, item_id=5)]) == 0
    assert codec.no_item_beside([search]) is None
    for datatype, no_item in (("BYTES", ""), ("INT64", 0)):
        assert codec.no_item_of(metadata(datatype)) == no_item


def test_ids_of_two_types_do_not_mix():
    events = [Event(user_id=user, action="like", timestamp=1, item_id=1) for user in (1, "1")]
    with pytest.raises(InvalidRequestError, match=r"event_user_id=.*ids of one type"):
        codec.encode_events(events, 0)


def test_an_answer_keeps_its_order():
    answer = codec.decode_recommendations(recommendations(3), "id")
    assert answer.release == "r1"
    assert (answer.history_source, answer.history_unavailable) == ("both", "")
    assert [(i.item_id, i.score, i.outcome, i.rank) for i in answer.items] == [
        (0, 1.0, "like", 1),
        (1, 0.5, "like", 2),
        (2, 0.0, "like", 3),
    ]


def test_an_answer_says_what_could_not_be_read():
    degraded = recommendations(1, history_source=np.array([[b"batch", b"realtime"]], object))
    answer = codec.decode_recommendations(degraded, "id")
    assert (answer.history_source, answer.history_unavailable) == ("batch", "realtime")


def test_an_answer_may_be_empty():
    assert codec.decode_recommendations(recommendations(0), "id").items == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"score": np.zeros((1, 1), np.float32)},
        {"score": np.zeros(2, np.float32)},
        {"release": np.array([[b"r1", b"r2"]], object)},
        {"history_source": np.array([[b"both"]], object)},
    ],
)
def test_an_answer_that_does_not_fit_together(changes: dict[str, np.ndarray]):
    with pytest.raises(ServerError, match=r"expected .*request_id=id"):
        codec.decode_recommendations(recommendations(2, **changes), "id")


def test_an_answer_that_lacks_a_tensor():
    with pytest.raises(ServerError, match="item_id shape=nothing"):
        codec.decode_recommendations(tensors(release=np.array([[b"r1"]], object)), "id")
