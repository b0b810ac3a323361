"""Index and merge: approximate search judged against exact search; exactly N distinct items, exact outcome shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinrec_core.generation.retrieval_plan import RetrievalPlan
from pinrec_core.retrieval.item_index import ItemIndex
from pinrec_core.retrieval.item_softmax import ItemSoftmax
from pinrec_core.retrieval.merging import MergeByMixture, MergeRule, merge_by_quota, retrieve


def unit(n: int, D: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def index() -> ItemIndex:
    return ItemIndex.build(unit(600, 8, 0), nprobe=4)


def plan_of(quota: list[int], outcome: list[int], seed: int = 1, D: int = 8) -> RetrievalPlan:
    return RetrievalPlan(
        embedding=unit(len(quota), D, seed), outcome=np.array(outcome, np.int32), quota=np.array(quota, np.int32)
    )


NOTHING = np.empty(0, np.int64)


@pytest.fixture(scope="module", params=["quota", "mixture"])
def merge(request, index) -> MergeRule:
    return merge_by_quota if request.param == "quota" else MergeByMixture(ItemSoftmax(index, 14.0))


@settings(max_examples=40, deadline=None)
@given(
    quota=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    seed=st.integers(0, 99),
    excluded=st.sets(st.integers(0, 599), max_size=100),
)
def test_exactly_n_distinct_items_with_exact_outcome_shares(index, merge, quota, seed, excluded):
    outcome = [i % 3 for i in range(len(quota))]
    plan = plan_of(quota, outcome, seed)
    (items,) = retrieve(index, [plan], [np.array(sorted(excluded), np.int64)], overfetch=1.5, merge=merge)
    assert len(items.item_row) == sum(quota)
    assert len(set(items.item_row.tolist())) == sum(quota)
    assert not set(items.item_row.tolist()) & excluded
    expected = np.bincount(plan.outcome, weights=plan.quota, minlength=3)
    assert np.bincount(items.outcome, minlength=3).tolist() == expected.tolist()
    assert (np.diff(items.score) <= 0).all()


def test_more_than_the_index_holds_returns_all_of_it(index, merge):
    (items,) = retrieve(index, [plan_of([500, 400], [0, 1])], [np.arange(10)], overfetch=2, merge=merge)
    assert sorted(items.item_row.tolist()) == list(range(10, 600))


@pytest.mark.parametrize("seed", range(8))
def test_a_request_is_answered_the_same_alone_and_in_a_batch(index, merge, seed):
    near = plan_of([9] * 6, [0, 1, 2] * 2, seed)
    near.embedding[:] = near.embedding[:1] + 0.1 * near.embedding  # they compete for the same items
    plans = [near, plan_of([5, 9], [0, 1], 1), plan_of([60], [0], 2), plan_of([1, 2, 3], [2, 1, 0], 3)]
    excluded = [NOTHING, np.arange(50), NOTHING, np.arange(100, 300)]
    together = retrieve(index, plans, excluded, overfetch=2, merge=merge)
    for plan, rows, answer in zip(plans, excluded, together, strict=True):
        (alone,) = retrieve(index, [plan], [rows], overfetch=2, merge=merge)
        assert alone.item_row.tolist() == answer.item_row.tolist()
        assert alone.outcome.tolist() == answer.outcome.tolist()


def test_merge_by_quota_by_hand():
    """Two embeddings of quota 2 find item 7 first; the second scores it higher and keeps it, the first goes deeper."""
    plan = plan_of([2, 2], [0, 1])
    row = np.array([[7, 1, 2, 3], [7, 8, 9, 1]])
    score = np.array([[0.8, 0.7, 0.6, 0.5], [0.9, 0.75, 0.3, 0.2]], np.float32)
    items = merge_by_quota(plan, score, row, NOTHING)
    assert items.item_row.tolist() == [7, 8, 1, 2]
    assert items.outcome.tolist() == [1, 1, 0, 0]
    assert items.embedding.tolist() == [1, 1, 0, 0]


def test_merge_by_quota_tops_up_within_the_outcome():
    """Embedding 1 finds only what embedding 0 takes; their outcome is topped up from embedding 0's deeper finds."""
    plan = plan_of([1, 2], [0, 0])
    row = np.array([[4, 5, 6], [4, -1, -1]])
    score = np.array([[0.9, 0.8, 0.7], [0.5, 0, 0]], np.float32)
    assert merge_by_quota(plan, score, row, NOTHING).item_row.tolist() == [4, 5, 6]


def test_the_mixture_prefers_what_embeddings_agree_on():
    """Item 0 is between two embeddings; items 1 and 2 lie on one each. By score each finds its own first; together
    they make the one in between the likeliest. Probabilities by hand, with λ = 2."""
    vectors = np.array([[0.8, 0.6], [1.0, 0.0], [0.28, 0.96], [-1.0, 0.0]], np.float32)
    softmax = ItemSoftmax(ItemIndex.build(vectors), 2.0)
    plan = RetrievalPlan(
        embedding=vectors[[1, 2]], outcome=np.array([0, 1], np.int32), quota=np.array([1, 1], np.int32)
    )
    weight = np.exp(2 * plan.embedding @ vectors.T)
    probability = weight / weight.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(softmax.log_probability(plan.embedding, np.arange(4))), probability, rtol=1e-5)
    mixture = np.array([1 / 2, 1 / 2]) @ probability
    items = MergeByMixture(softmax)(plan, np.zeros((2, 3), np.float32), np.array([[1, 0, 2], [2, 0, 1]]), NOTHING)
    assert items.item_row.tolist() == [0, 1] == np.argsort(-mixture)[:2].tolist()
    np.testing.assert_allclose(items.score, mixture[:2], rtol=1e-5)
    # Item 1 is mostly the first embedding's and takes that outcome's one place; the other is left to the second.
    assert items.outcome.tolist() == [1, 0]
    assert items.embedding.tolist() == [1, 0]


def test_probabilities_over_a_large_catalogue_are_estimated_from_candidates_and_a_sample(index):
    """The top 100 and 200 of the other 500 items against all 600. Unit vectors at random: the sampled part is half of
    the mass and is off by a few percent."""
    queries = unit(20, 8, 5)
    exact, sampled = ItemSoftmax(index, 10.0), ItemSoftmax(index, 10.0, reference_items=200)
    for query in queries:
        rows = np.sort(index.search(query[None], 100, exhaustive=True)[1][0])
        expected, got = exact.log_probability(query[None], rows), sampled.log_probability(query[None], rows)
        np.testing.assert_allclose(got, expected, atol=0.1)
    np.testing.assert_allclose(np.exp(exact.log_probability(queries, np.arange(600))).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("inverse_temperature", [14.0, 2_000.0, 1e6])
def test_the_order_of_the_mixture_is_that_of_the_scores_however_large_lambda_is(index, inverse_temperature):
    """With one embedding the likeliest items are the nearest ones. At λ = 2,000 all probabilities but the first few are
    below the least float64: from them alone the rest would come in the order of rows, and far from every item the
    normaliser itself would be 0."""
    merge = MergeByMixture(ItemSoftmax(index, inverse_temperature))
    far = -index.reconstruct(np.arange(600)).sum(axis=0)
    for vector in (unit(1, 8, 7)[0], far / np.linalg.norm(far)):
        plan = RetrievalPlan(
            embedding=vector[None], outcome=np.array([2], np.int32), quota=np.array([100], np.int32)
        )  # fmt: skip
        score, row = index.search(vector[None], 200, exhaustive=True)
        items = merge(plan, score, row, NOTHING)
        assert items.item_row.tolist() == row[0, :100].tolist()
        assert np.isfinite(items.score).all()


def test_outcomes_share_out_what_no_float_can_tell_apart(index):
    """Two opposite embeddings of two outcomes at λ = 2,000: each item belongs to the nearer one, though its share of
    the other is 0 in any floating-point number; the shares are exact all the same."""
    vector = unit(1, 8, 7)[0]
    plan = RetrievalPlan(
        embedding=np.stack([vector, -vector]), outcome=np.array([0, 1], np.int32), quota=np.array([30, 30], np.int32)
    )
    score, row = index.search(plan.embedding, 60, exhaustive=True)
    items = MergeByMixture(ItemSoftmax(index, 2_000.0))(plan, score, row, NOTHING)
    cosine = index.reconstruct(items.item_row) @ vector
    assert np.bincount(items.outcome).tolist() == [30, 30]
    assert cosine[items.outcome == 0].min() > cosine[items.outcome == 1].max()


def test_index_recall_is_calibrated_against_brute_force():
    vectors, queries = unit(4000, 16, 3), unit(64, 16, 4)
    index = ItemIndex.build(vectors)
    nprobe, reached = index.calibrate(queries, 50, recall=0.9)
    exact = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :50]
    found = index.search(queries, 50)[1]
    measured = np.mean([len(set(e) & set(f)) / 50 for e, f in zip(exact.tolist(), found.tolist(), strict=True)])
    assert measured == pytest.approx(reached, abs=0.01)  # ties between equal scores
    assert reached >= 0.9
    assert nprobe < index.nlist


def test_exhaustive_search_is_exact_and_vectors_can_be_read_back(index):
    queries = unit(5, 8, 9)
    vectors = index.reconstruct(np.arange(600))
    np.testing.assert_array_equal(vectors, unit(600, 8, 0))
    found = index.search(queries, 600, exhaustive=True)[1]
    assert (np.sort(found, axis=1) == np.arange(600)).all()
