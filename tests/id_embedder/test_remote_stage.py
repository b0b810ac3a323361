"""The ID embedder stage over a service: one call with the distinct keys of a batch, and the rows that each key has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from id_embedder.remote_stage import START_SECONDS, RemoteIdEmbedderStage
from pinrec_core.errors import ServerError
from pinrec_core.representations.id_embedding import HashedIdEmbedding
from pinrec_core.representations.id_tables import IdTables
from pinrec_core.stages.base import Tensors, run_batch

TABLES = IdTables.pack(HashedIdEmbedding(width=8, hashes=2, rows=64))
KEYS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5), max_size=12)


@dataclass
class Service:
    """Looks up keys in ``TABLES``, and notes what it was asked for and in how many seconds."""

    asked: list[list[int]] = field(default_factory=list)
    seconds: list[float | None] = field(default_factory=list)
    away: bool = False

    def __call__(self, tensors: Tensors, *, seconds: float | None = None) -> Tensors:
        self.asked.append(tensors["history_item_key"].tolist())
        self.seconds.append(seconds)
        if self.away:
            raise ServerError("away")
        return {"history_id_embedding": TABLES.embed(tensors["history_item_key"])}


def requests(histories: Sequence[Sequence[int]]) -> list[Tensors]:
    return [{"history_item_key": np.array(keys, np.int64)} for keys in histories]


@given(st.lists(KEYS, min_size=1, max_size=6))
def test_a_batch_is_one_call_with_its_distinct_keys_and_gets_the_rows_of_the_tables(histories: list[list[int]]) -> None:
    service = Service()
    stage = RemoteIdEmbedderStage(service, max_history=12)
    answers = run_batch(stage, requests(histories))
    for keys, answer in zip(histories, answers, strict=True):
        expected = TABLES.embed(np.array(keys, np.int64))
        assert answer["history_id_embedding"].dtype == expected.dtype
        assert answer["history_id_embedding"].shape == expected.shape
        assert answer["history_id_embedding"].tobytes() == expected.tobytes()
    distinct = sorted({key for keys in histories for key in keys})
    assert service.asked == [[], distinct] if distinct else [[]]


def test_the_first_call_may_take_longer_than_the_others() -> None:
    service = Service()
    RemoteIdEmbedderStage(service, max_history=12).run([np.array([1])])
    assert service.seconds == [START_SECONDS, None]


def test_a_service_that_is_away_fails_the_batch_after_one_call_but_no_empty_histories() -> None:
    service = Service()
    stage = RemoteIdEmbedderStage(service, max_history=12)
    service.away = True
    answers = run_batch(stage, requests([[1], [], [2, 3]]))
    assert [type(answer) for answer in answers] == [ServerError] * 3
    assert len(service.asked) == 2, "the batch was not repeated in halves"
    (answer,) = run_batch(stage, requests([[]]))
    assert answer["history_id_embedding"].shape == (0, 8)


def test_a_service_that_is_away_at_the_start_is_an_error() -> None:
    with pytest.raises(ServerError, match="away"):
        RemoteIdEmbedderStage(Service(away=True), max_history=12)


def test_a_history_that_is_too_long_is_refused_before_the_call_that_it_would_share() -> None:
    service = Service()
    stage = RemoteIdEmbedderStage(service, max_history=2)
    refused, answer = run_batch(stage, requests([[1, 2, 3], [4]]))
    assert str(refused) == "history_item_key has 3 positions: expected at most 2"
    assert len(answer["history_id_embedding"]) == 1
    assert service.asked[1:] == [[4]]
