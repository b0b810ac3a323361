"""Malformed requests and events are refused before they are sent, with a message of one sentence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pinrec_client import Event, InvalidRequestError, PinRecClient, RecommendRequest, Tls


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"user_id": 1.5}, "user_id"),
        ({"user_id": True}, "user_id"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": 1 << 63}, "user_id"),
        ({"user_id": "\udc80"}, "user_id"),
        ({"num_items": 0}, "num_items"),
        ({"num_items": 1 << 31}, "num_items"),
        ({"num_items": 2.0}, "num_items"),
        ({"budget": {}}, "budget"),
        ({"budget": {"like": 0.5}}, "budget"),
        ({"budget": {"like": 1.5, "save": -0.5}}, "budget['save']"),
        ({"budget": {"like": math.nan}}, "budget['like']"),
        ({"budget": {"like": math.inf}}, "budget['like']"),
        ({"budget": {"like": "1"}}, "budget['like']"),
        ({"surface": 3}, "surface"),
        ({"query": b"shoes"}, "query"),
        ({"query": ""}, "query"),
        ({"query": "shoes", "query_embedding": [0.1]}, "query, query_embedding"),
        ({"query_embedding": []}, "query_embedding"),
        ({"query_embedding": [[0.1]]}, "query_embedding"),
        ({"query_embedding": ["a"]}, "query_embedding"),
        ({"query_embedding": [math.nan]}, "query_embedding"),
        ({"exclude_seen": "yes"}, "exclude_seen"),
        ({"request_time": 1.5}, "request_time"),
        ({"request_time": 0}, "request_time"),
        ({"seed": 1 << 63}, "seed"),
    ],
)
def test_malformed_requests(arguments: dict[str, Any], field: str):
    with pytest.raises(InvalidRequestError) as caught:
        RecommendRequest(**{"user_id": 1, **arguments})
    message = str(caught.value)
    assert message.startswith(field)
    assert ": expected " in message


def test_weights_may_be_written_with_three_decimals():
    RecommendRequest(user_id=1, budget={"like": 0.333, "save": 0.333, "click": 0.333})


@pytest.mark.parametrize("field", ["root_certificates", "private_key", "certificate_chain"])
def test_a_missing_certificate_is_named(field: str):
    with pytest.raises(InvalidRequestError, match=f"{field}='absent.pem': expected a PEM file"):
        Tls(**{field: "absent.pem"})


def test_a_client_needs_an_address():
    with pytest.raises(InvalidRequestError, match="url='': expected host:port"):
        PinRecClient("")


def test_numpy_values_are_welcome():
    RecommendRequest(
        user_id=np.int64(7),  # type: ignore[arg-type]
        num_items=np.int32(3),  # type: ignore[arg-type]
        budget={"like": np.float32(0.7), "save": np.float32(0.3)},  # type: ignore[dict-item]
        query_embedding=np.ones(4, np.float16),
        exclude_seen=np.True_,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"user_id": None}, "user_id"),
        ({"action": ""}, "action"),
        ({"timestamp": 1.5}, "timestamp"),
        ({"timestamp": 0}, "timestamp"),
        ({"item_id": None}, "item_id, query"),
        ({"query": "shoes"}, "item_id, query"),
        ({"item_id": None, "query": ""}, "query"),
        ({"surface": None}, "surface"),
        ({"event_id": ""}, "event_id"),
    ],
)
def test_malformed_events(arguments: dict[str, Any], field: str):
    with pytest.raises(InvalidRequestError) as caught:
        Event(**{"user_id": 1, "action": "like", "timestamp": 5, "item_id": 2, **arguments})
    assert str(caught.value).startswith(field)


def test_every_event_has_an_id_of_its_own():
    events = [Event(user_id=1, action="like", timestamp=5, item_id=2) for _ in range(100)]
    assert len({event.event_id for event in events}) == 100
