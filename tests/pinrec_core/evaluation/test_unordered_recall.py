"""Eq. 6, diversity and coverage against loops, on lists by hand and on a trained model's embeddings."""

from __future__ import annotations

import numpy as np
import pytest

from pinrec_core.evaluation.held_out import evaluate
from pinrec_core.evaluation.unordered_recall import RetrievedItems, list_ranks, recalled
from pinrec_core.generation.compression import compress, compression_ratio
from pinrec_core.retrieval.exact_search import blocks_of, exact_top_k

K = 3


def test_a_target_is_recalled_by_any_list_of_its_own_user():
    target = np.array([[1, 2], [1, 2]])
    retrieved = np.array([[[5, 1], [3, 4]], [[6, 7], [2, 2]]])
    assert recalled(target, retrieved).tolist() == [[True, False], [False, True]]


def test_places_in_a_list():
    assert list_ranks(np.array([[7, 9], [4, 7]]), np.array([[9, 7, 5], [1, 2, 7]])).tolist() == [[1, 0], [3, 2]]


def test_diversity_and_coverage_by_hand():
    retrieved = RetrievedItems(10)
    retrieved.add(np.array([[1, 2], [2, 3]]))
    retrieved.add(np.array([3, 3, -1]))
    assert (retrieved.diversity, retrieved.coverage) == (3 / 6, 3 / 10)


def test_the_exact_search_orders_by_inner_product():
    random = np.random.default_rng(0)
    query, items = random.normal(size=(50, 8)).astype(np.float32), random.normal(size=(300, 8)).astype(np.float32)
    np.testing.assert_array_equal(
        exact_top_k(query, blocks_of(items), 5), np.argsort(-(query @ items.T), axis=1)[:, :5]
    )
    assert exact_top_k(query, blocks_of(items[:4]), 10).shape == (50, 4)  # no more than there are


def test_unordered_recall_against_brute_force(subject, cases):
    indexed = subject.indexed
    result = evaluate(
        subject, cases, outcomes=indexed.dataset.outcomes, surfaces=indexed.dataset.surfaces, k=K, batch=7
    )
    generated = indexed.generate([case.request(subject.budget) for case in cases])
    embedding = generated.numpy()
    items = indexed.index.vectors_of(np.arange(len(indexed.index)))
    hits, retrieved, places, distinct = [], set(), 0, []
    for case, vectors in zip(cases, embedding.reshape(len(cases), -1, items.shape[1]), strict=True):
        own: set[int] = set()
        for vector in vectors:
            best = sorted(range(len(items)), key=lambda row, v=vector: -float(v @ items[row]))[:K]
            own |= set(best)
            places += K
        retrieved |= own
        distinct.append(len(own))
        hits.append([row in own for row in case.target_row.tolist()])
    np.testing.assert_array_equal(result.arrays["hit"], hits)
    np.testing.assert_array_equal(result.arrays["distinct_items"], distinct)
    metrics = result.metrics
    assert metrics["unordered_recall"] == pytest.approx(np.mean(hits))
    assert metrics["diversity"] == pytest.approx(len(retrieved) / places)
    assert metrics["catalogue_coverage"] == pytest.approx(len(retrieved) / len(items))
    assert metrics["embeddings"] == embedding.shape[1] * embedding.shape[2]
    outcome = np.stack([case.target_outcome for case in cases])
    for number, name in enumerate(indexed.dataset.outcomes):
        chosen = np.array(hits)[outcome == number]
        assert metrics["by_outcome"][name]["unordered_recall"] == pytest.approx(chosen.mean())
        assert metrics["by_outcome"][name]["targets"] == len(chosen)
    _, merged = compress(generated, indexed.generation.merge_cosine)
    assert metrics["compression_ratio"] == pytest.approx(compression_ratio(merged))


def test_served_hits_are_those_of_the_serving_path_whatever_the_batch(subject, cases):
    names = {"outcomes": subject.indexed.dataset.outcomes, "surfaces": subject.indexed.dataset.surfaces}
    alone = evaluate(subject, cases, **names, num_items=20, batch=1)
    together = evaluate(subject, cases, **names, num_items=20, batch=64)
    for name in ("hit", "served_hit"):
        # One user alone or padded beside longer ones differs by rounding; a flipped near-tie is possible, not more.
        assert (alone.arrays[name] != together.arrays[name]).mean() < 0.02, name
    served = subject.answer(cases, depth=K, num_items=20).served
    assert all(len(rows) == len(set(rows.tolist())) == 20 for rows in served)
    unseen = subject.answer(cases, depth=K, num_items=20, exclude_seen=True).served
    for case, rows in zip(cases, unseen, strict=True):
        assert not np.isin(rows, case.seen_row).any()
