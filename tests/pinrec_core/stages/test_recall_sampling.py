"""Recall that is measured in serving, against an index that is made worse on purpose."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from pinrec_core.retrieval.item_index import ItemIndex
from pinrec_core.stages.metrics import RECALL_FOUND, RECALL_SKIPPED, RECALL_WANTED
from pinrec_core.stages.recall_sampling import RecallSampler
from tests.recorded import Recorded

DEPTH = 40


def unit(n: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def index() -> ItemIndex:
    return ItemIndex.build(unit(4000, 1), flat_items=0)


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.mark.parametrize("all_lists", [True, False])
def test_the_measured_recall_is_that_of_the_index(index, all_lists):
    index.nprobe = index.nlist if all_lists else 1
    queries = unit(6, 2)
    recorded = Recorded()
    sampler = RecallSampler(index, depth=DEPTH, every=1, metrics=recorded)
    for number, query in enumerate(queries):
        sampler.offer(query[None])
        wait_for(lambda: recorded.total(RECALL_WANTED) == DEPTH * (number + 1))  # noqa: B023
        wait_for(lambda: len(recorded.of(RECALL_FOUND)) == number + 1)  # noqa: B023
    exact = np.argsort(-(queries @ unit(4000, 1).T), axis=1, kind="stable")[:, :DEPTH]
    found = index.search(queries, DEPTH)[1]
    hits = sum(len(set(e) & set(f)) for e, f in zip(exact.tolist(), found.tolist(), strict=True))
    # The index rounds its vectors to bfloat16, as exact search over its own vectors does, and this one does not: items
    # that are equal to three digits may change places at the depth's end.
    assert recorded.total(RECALL_FOUND) == pytest.approx(hits, abs=6)
    assert (recorded.total(RECALL_FOUND) == DEPTH * 6) == all_lists


def test_one_in_so_many_requests_is_taken_and_all_of_its_embeddings_have_their_turn(index, monkeypatch):
    taken = []
    sampler = RecallSampler(index, depth=DEPTH, every=0, metrics=Recorded())
    sampler._every = 3  # without the thread, which would take them away
    monkeypatch.setattr(sampler._next, "put_nowait", lambda embedding: taken.append(embedding[0, 0]))
    embedding = np.arange(4, dtype=np.float32)[:, None] * np.ones(16, np.float32)
    for _ in range(15):
        sampler.offer(embedding)
    assert taken == [1, 2, 3, 0, 1]


def test_what_comes_while_it_is_busy_is_counted_and_dropped(index):
    recorded = Recorded()
    sampler = RecallSampler(index, depth=DEPTH, every=0, metrics=recorded)
    sampler._every = 1
    for _ in range(3):
        sampler.offer(unit(2, 1))
    assert recorded.total(RECALL_SKIPPED) == 2


def test_its_thread_ends_with_it_and_without_it_there_is_none(index):
    def threads() -> int:
        return sum(thread.name == "recall" for thread in threading.enumerate())

    wait_for(lambda: threads() == 0)  # those of the tests above
    sampler = RecallSampler(index, depth=DEPTH, every=1, metrics=Recorded())
    assert threads() == 1
    off = RecallSampler(index, depth=DEPTH, every=0, metrics=Recorded())
    off.offer(unit(1, 1))
    assert threads() == 1
    del sampler
    wait_for(lambda: threads() == 0)
