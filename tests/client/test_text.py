"""What the command lines read and write."""

from __future__ import annotations

import pytest
from pinrec_client import InvalidRequestError, Recommendations, RecommendedItem, UnavailableError
from pinrec_client.text import document, history_of, parse_budget, parse_id


def test_ids():
    assert [parse_id(text) for text in ("17", "-3", "u17", "1.5", "")] == [17, -3, "u17", "1.5", ""]
    assert parse_id("17", string_ids=True) == "17"


def test_budget():
    assert parse_budget("like=.7, long click=0.3") == {"like": 0.7, "long click": 0.3}


@pytest.mark.parametrize("text", ["", "like", "like=", "=1", "like=x", "like=.5,,save=.5", "like=.5,like=.5"])
def test_malformed_budgets(text: str):
    with pytest.raises(InvalidRequestError, match="budget="):
        parse_budget(text)


def test_documents():
    item = RecommendedItem(item_id="a", score=0.5, outcome="like", rank=1)
    answer = Recommendations(release="r1", items=(item,), history_source="batch", history_unavailable="realtime")
    assert document(17, answer) == {
        "user_id": 17,
        "release": "r1",
        "history_source": "batch",
        "history_unavailable": "realtime",
        "items": [{"rank": 1, "item_id": "a", "outcome": "like", "score": 0.5}],
    }
    assert document("u", UnavailableError("down")) == {"user_id": "u", "error": "UnavailableError", "message": "down"}


def test_what_an_answer_is_based_on():
    assert history_of("both", "") == "history: both"
    assert history_of("none", "realtime") == "history: none (realtime unavailable)"
