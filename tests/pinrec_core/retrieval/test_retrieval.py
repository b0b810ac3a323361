"""Lookup and merge: exactly N distinct items, exact outcome shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinrec_core.generation.retrieval_plan import RetrievalPlan
from pinrec_core.retrieval import merging
from pinrec_core.retrieval.item_index import ItemIndex
from pinrec_core.retrieval.item_softmax import ItemSoftmax
from pinrec_core.retrieval.lookup import Finds, PlanBatch, look_up
from pinrec_core.retrieval.merging import MergeRule, retrieve
from pinrec_core.retrieval.mixture import MergeByMixture, share_out, share_out_reference
from pinrec_core.retrieval.per_outcome import MergePerOutcome, in_turn
from pinrec_core.retrieval.quota import merge_by_quota
from pinrec_core.retrieval.ranked_items import RankedItems
from tests.pinrec_core.retrieval.conftest import unit


def plan_of(quota: list[int], outcome: list[int], seed: int = 1, D: int = 8) -> RetrievalPlan:
    return RetrievalPlan(
        embedding=unit(len(quota), D, seed), outcome=np.array(outcome, np.int32), quota=np.array(quota, np.int32)
    )


NOTHING = np.empty(0, np.int64)


def finds_of(score: np.ndarray, row: np.ndarray) -> Finds:
    """What a search of M embeddings gave, ``[M, k]`` each, as pairs."""
    m, column = np.nonzero(row >= 0)
    return Finds(embedding=m, item_row=row[m, column], score=score[m, column].astype(np.float32))


def log_p(softmax: ItemSoftmax, embedding: np.ndarray, finds: Finds) -> np.ndarray:
    return softmax.normalise(embedding, finds).log_probability(finds.score, finds.embedding)


def merge_one(merge: MergeRule, plan: RetrievalPlan, score: np.ndarray, row: np.ndarray) -> RankedItems:
    (items,) = merge(PlanBatch.of([plan]), finds_of(score, row), [NOTHING])
    return items


@pytest.fixture(scope="module", params=["per outcome", "quota", "mixture"])
def merge(request, index) -> MergeRule:
    softmax = ItemSoftmax(index, 14.0)
    return {
        "per outcome": MergePerOutcome(softmax), "quota": merge_by_quota, "mixture": MergeByMixture(softmax)
    }[request.param]  # fmt: skip


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
def test_every_item_was_found_by_the_embedding_that_it_names(index, merge, seed):
    plans = [plan_of([9, 3, 8], [0, 1, 0], seed), plan_of([2] * 8, [3, 1] * 4, seed + 99)]
    batch = PlanBatch.of(plans)
    finds = look_up(index, batch, np.array([60, 60]))
    found = set(zip(finds.embedding.tolist(), finds.item_row.tolist(), strict=True))
    for b, items in enumerate(merge(batch, finds, [NOTHING, NOTHING])):
        first = int(np.flatnonzero(batch.request == b)[0])
        assert set(zip((first + items.embedding).tolist(), items.item_row.tolist(), strict=True)) <= found
        if not isinstance(merge, MergeByMixture):  # which shares its items out when they are chosen
            assert items.outcome.tolist() == plans[b].outcome[items.embedding].tolist()


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
    items = merge_one(merge_by_quota, plan, score, row)
    assert items.item_row.tolist() == [7, 8, 1, 2]
    assert items.outcome.tolist() == [1, 1, 0, 0]


def test_merge_by_quota_tops_up_within_the_outcome():
    """Embedding 1 finds only what embedding 0 takes; their outcome is topped up from embedding 0's deeper finds."""
    plan = plan_of([1, 2], [0, 0])
    row = np.array([[4, 5, 6], [4, -1, -1]])
    score = np.array([[0.9, 0.8, 0.7], [0.5, 0, 0]], np.float32)
    assert merge_one(merge_by_quota, plan, score, row).item_row.tolist() == [4, 5, 6]


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
    inner_product = plan.embedding @ vectors.T
    everything = finds_of(inner_product, np.tile(np.arange(4), (2, 1)))
    got = np.exp(log_p(softmax, plan.embedding, everything)).reshape(2, 4)
    np.testing.assert_allclose(got, probability, rtol=1e-5)
    mixture = np.array([1 / 2, 1 / 2]) @ probability
    found = np.array([[1, 0, 2], [2, 0, 1]])
    items = merge_one(MergeByMixture(softmax), plan, np.take_along_axis(inner_product, found, axis=1), found)
    assert items.item_row.tolist() == [0, 1] == np.argsort(-mixture)[:2].tolist()
    np.testing.assert_allclose(items.score, mixture[:2], rtol=1e-5)
    # Item 1 is mostly the first embedding's and takes that outcome's one place; the other is left to the second.
    assert items.outcome.tolist() == [1, 0]


def test_probabilities_over_a_large_catalogue_are_estimated_from_candidates_and_a_sample(index):
    """The top 100 and 200 of the other 500 items against all 600. Unit vectors at random: the sampled part is half of
    the mass and is off by a few percent."""
    queries = unit(20, 8, 5)
    exact, sampled = ItemSoftmax(index, 10.0), ItemSoftmax(index, 10.0, reference_items=200)
    finds = finds_of(*index.search(queries, 100, exhaustive=True))
    expected, got = log_p(exact, queries, finds), log_p(sampled, queries, finds)
    np.testing.assert_allclose(got, expected, atol=0.1)
    everything = finds_of(*index.search(queries, 600, exhaustive=True))
    probability = np.exp(log_p(exact, queries, everything)).reshape(20, 600)
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("inverse_temperature", [14.0, 2_000.0, 1e6])
def test_the_order_of_the_mixture_is_that_of_the_scores_however_large_lambda_is(index, inverse_temperature):
    """With one embedding the likeliest items are the nearest ones. At λ = 2,000 all probabilities but the first few are
    below the least float64: from them alone the rest would come in the order of rows, and far from every item the
    normaliser itself would be 0."""
    merge = MergeByMixture(ItemSoftmax(index, inverse_temperature))
    far = -index.vectors_of(np.arange(600)).sum(axis=0)
    for vector in (unit(1, 8, 7)[0], far / np.linalg.norm(far)):
        plan = RetrievalPlan(
            embedding=vector[None], outcome=np.array([2], np.int32), quota=np.array([100], np.int32)
        )  # fmt: skip
        score, row = index.search(vector[None], 200, exhaustive=True)
        items = merge_one(merge, plan, score, row)
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
    items = merge_one(MergeByMixture(ItemSoftmax(index, 2_000.0)), plan, score, row)
    cosine = index.vectors_of(items.item_row) @ vector
    assert np.bincount(items.outcome).tolist() == [30, 30]
    assert cosine[items.outcome == 0].min() > cosine[items.outcome == 1].max()


def test_an_outcome_chooses_by_its_own_embeddings_and_an_item_that_two_want_goes_to_the_first_turn(index):
    """Outcome 0 has two embeddings, outcome 1 one, and a third of the items. All of them find everything."""
    plan = plan_of([10, 10, 10], [0, 0, 1], 3)
    score, row = index.search(plan.embedding, 600, exhaustive=True)
    items = merge_one(MergePerOutcome(ItemSoftmax(index, 14.0)), plan, score, row)
    vectors = index.vectors_of(np.arange(600)).astype(np.float64)
    weight = np.exp(14.0 * plan.embedding @ vectors.T)
    probability = weight / weight.sum(axis=1, keepdims=True)
    own = [probability[:2].mean(axis=0), probability[2]]
    taken: dict[int, int] = {}
    for outcome in [0, 1, 0] * 10:  # every third turn, in the middle of three, is that of outcome 1
        best = next(int(i) for i in np.argsort(-own[outcome], kind="stable") if int(i) not in taken)
        taken[best] = outcome
    assert dict(zip(items.item_row.tolist(), items.outcome.tolist(), strict=True)) == taken
    np.testing.assert_allclose(items.score, probability.mean(axis=0)[items.item_row], rtol=1e-4)


def test_turns_follow_the_budget_and_places_stay_empty_where_nothing_is_left():
    assert [a.tolist() for a in in_turn([[7, 8, 9], [7, 9, 5]], [2, 1])] == [[7, 9, 8], [0, 1, 0]]
    assert [a.tolist() for a in in_turn([[7], [7, 8]], [2, 2])] == [[7, 8], [0, 1]]
    assert [a.tolist() for a in in_turn([[], []], [1, 1])] == [[], []]
    items, chooser = in_turn([list(range(100)), list(range(100, 200))], [30, 10])
    assert len(set(items.tolist())) == 40
    for t in range(1, 41):
        assert abs((chooser[:t] == 1).sum() - t / 4) < 1


def mixture_reference(
    index: ItemIndex, inverse_temperature: float, batch: PlanBatch, finds: Finds, excluded: list[np.ndarray]
) -> list[dict[int, float]]:
    """The plain twin of the mixture's scores: a dictionary from item to probability for each request, one embedding at
    a time, with all items in the normaliser."""
    vectors = index.vectors_of(np.arange(len(index))).astype(np.float64)
    mixture: list[dict[int, float]] = [{} for _ in excluded]
    for m, embedding in enumerate(batch.embedding):
        weight = np.exp(inverse_temperature * (vectors @ embedding - 1))
        request = batch.request[m]
        share = batch.quota[m] / batch.num_items[request]
        for item_row in np.setdiff1d(
            finds.item_row[batch.request[finds.embedding] == request], excluded[request]
        ).tolist():
            mixture[request][item_row] = mixture[request].get(item_row, 0) + share * weight[item_row] / weight.sum()
    return mixture


@pytest.mark.parametrize("seed", range(6))
def test_the_batch_is_merged_as_one_item_after_the_other_would_be(index, seed):
    """Scores within 1e-4 of the plain twin's: λ·(inner product) is a float32 of up to 20, off by 2^-23 of that, and the
    bfloat16 vectors are the same on both sides."""
    plans = [plan_of([9, 3, 8], [0, 1, 0], seed), plan_of([5], [2], seed + 50), plan_of([2] * 8, [3, 1] * 4, seed + 99)]
    excluded = [NOTHING, np.arange(0, 600, 5), np.arange(0, 600, 7)]
    batch = PlanBatch.of(plans)
    finds = look_up(index, batch, np.array([40, 60, 30]))
    expected = mixture_reference(index, 20.0, batch, finds, excluded)
    merged = MergeByMixture(ItemSoftmax(index, 20.0))(batch, finds, excluded)
    for items, mixture, plan in zip(merged, expected, plans, strict=True):
        N = int(plan.quota.sum())
        np.testing.assert_allclose(items.score, [mixture[row] for row in items.item_row.tolist()], rtol=1e-4)
        np.testing.assert_allclose(items.score, sorted(mixture.values(), reverse=True)[:N], rtol=1e-4)
        expected_outcomes = np.bincount(plan.outcome, weights=plan.quota, minlength=4)
        assert np.bincount(items.outcome, minlength=4).tolist() == expected_outcomes.tolist()


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4), O=st.integers(1, 4), seed=st.integers(0, 999))
def test_outcomes_are_shared_out_as_one_pair_after_the_other_would_be(sizes, O, seed):
    random = np.random.default_rng(seed)
    request = np.repeat(np.arange(len(sizes)), sizes)
    share = random.random((len(request), O)) * (random.random((len(request), O)) < 0.7)
    room = np.stack([np.bincount(random.integers(0, O, size + 1), minlength=O) for size in sizes])
    got = share_out(share, request, room)
    np.testing.assert_array_equal(got, share_out_reference(share, request, room))


def test_one_deep_request_leaves_its_neighbours_at_their_depth(index):
    """Requests of like depth share a search: three searches, none deeper than its own requests ask."""
    searched = []

    class Counting(ItemIndex):
        def search(self, query, k, **how):
            searched.append((len(query), k))
            return super().search(query, k, **how)

    counting = Counting(index._index, index._vectors, nprobe=index.nprobe)
    plans = [plan_of([10], [0], 1), plan_of([8, 8], [0, 1], 2), plan_of([300], [0], 3), plan_of([1], [0], 4)]
    finds = look_up(counting, PlanBatch.of(plans), np.array([20, 16, 300, 2]))
    assert searched == [(1, 300), (3, 20), (1, 2)]
    assert (np.bincount(finds.embedding)[[0, 1, 2, 4]] == [20, 16, 16, 2]).all()


def test_who_came_up_short_looks_deeper_before_it_looks_in_more_lists():
    """Twenty of an embedding's nearest items are seen. Its lists hold enough others, and no other list is visited."""
    index = ItemIndex.build(unit(4000, 8, 0), nprobe=8, flat_items=0)
    searched = []

    class Counting(ItemIndex):
        def search(self, query, k, **how):
            searched.append((k, how["widen"]))
            return super().search(query, k, **how)

    plan = plan_of([10], [0], 5)
    near = index.search(plan.embedding, 20)[1][0]
    counting = Counting(index._index, index._vectors, nprobe=index.nprobe)
    (items,) = retrieve(counting, [plan], [near], overfetch=1, merge=MergeByMixture(ItemSoftmax(index, 14.0)))
    assert searched == [(20, 1), (80, 1)]
    assert items.complete
    assert items.looks == 2


def test_a_search_that_is_given_up_says_so(index, monkeypatch):
    """All but ten items are excluded, so that no depth short of the whole catalogue finds three of them."""
    excluded = np.setdiff1d(np.arange(600), np.arange(0, 600, 60))
    plan = plan_of([3], [0], 5)
    merge = MergeByMixture(ItemSoftmax(index, 14.0))
    monkeypatch.setattr(merging, "DEEPER", 1)
    (whole,) = retrieve(index, [plan], [excluded], overfetch=1, merge=merge)
    assert whole.complete
    assert len(whole.item_row) == 3
    monkeypatch.setattr(merging, "WHOLE_ITEMS", 599)
    (given_up,) = retrieve(index, [plan], [excluded], overfetch=1, merge=merge)
    assert not given_up.complete
    assert len(given_up.item_row) < 3


def test_all_that_the_index_holds_is_complete(index, merge):
    (items,) = retrieve(index, [plan_of([700], [0])], [NOTHING], overfetch=1, merge=merge)
    assert items.complete
    assert len(items.item_row) == 600
