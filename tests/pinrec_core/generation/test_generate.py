"""Generation, compression, allocation: invariances and hand-computed cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pinrec_core.config.sections import Allocation, GenerationConfig, Variant
from pinrec_core.errors import ConfigError
from pinrec_core.generation import budget as budgets
from pinrec_core.generation.compression import by_fixed_steps, compress, compress_reference, compression_ratio
from pinrec_core.generation.generate import RequestContext, condition_of_step, generate, step_embeddings
from pinrec_core.generation.inputs import draw_feedback_outcomes
from pinrec_core.generation.planning import own_weights, plan_retrieval
from pinrec_core.history import History
from pinrec_core.release.calibration import calibrate_merge_cosine
from pinrec_core.request import Request
from tests.pinrec_core.builders import batch_of, packed_batch_of, random_history, tiny_model

TOLERANCE = 2e-5  # float32 sums in another order; embeddings are unit vectors


def allocate(
    budget: np.ndarray, weight: np.ndarray, num_items: int, allocation: Allocation = Allocation.DETERMINISTIC,
    seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """The quotas of one request, ``[O, n]``."""
    return budgets.allocate(budget[None], np.asarray(weight)[None], [num_items], allocation, [seed])[0]


def context(B: int, steps: int, surface: int = 1, time: int = 1_600_000_100) -> RequestContext:
    return RequestContext(
        surface=torch.full((B,), surface),
        timestamp=torch.full((B,), time),
        strength=torch.linspace(0.5, 1.5, 3 * B).view(B, 3),
        feedback_outcome=torch.arange(B * (steps - 1)).view(B, -1) % 3,
    )


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(0, 10), min_size=1, max_size=4), seed=st.integers(0, 50))
def test_a_request_generates_the_same_alone_and_in_a_batch(lengths, seed):
    model = tiny_model()
    histories = [random_history(n, seed + i) for i, n in enumerate(lengths)]
    whole = context(len(histories), 4)
    together = generate(model, packed_batch_of(model, histories), whole, (1, 2))
    for b, history in enumerate(histories):
        own = RequestContext.of(*(tensor[b : b + 1] for tensor in whole.tensors()))
        alone = generate(model, packed_batch_of(model, [history]), own, (1, 2))
        torch.testing.assert_close(together[b], alone[0], atol=TOLERANCE, rtol=0)


def test_cached_generation_equals_recomputing_everything():
    """Feed each fed-back token through the whole decoder again, without a cache."""
    model, history, steps = tiny_model(), random_history(7, 3), 4
    request = context(1, steps)
    cached = generate(model, packed_batch_of(model, [history]), request, (1, 3))
    with torch.inference_mode():
        batch = batch_of(model, [history])
        tokens = model.history_tokens(batch, model.represent_items(batch))
        previous = batch.timestamp[:, -1]
        parts = []
        for step in range(steps):
            hidden, condition = model.decoder(tokens)[:, -1], condition_of_step(model, (1, 3))
            embedding = step_embeddings(model, hidden, condition, request.strength)
            parts.append(embedding)
            if step < steps - 1:
                fed_back = embedding[:, int(request.feedback_outcome[0, step]), 0]
                token = model.tokens(fed_back, request.surface, request.timestamp, previous)
                tokens, previous = torch.cat([tokens, token.unsqueeze(1)], 1), request.timestamp
    torch.testing.assert_close(cached, torch.cat(parts, 2), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("variant", "outcomes"), [(Variant.UC, 1), (Variant.OC, 3), (Variant.MT, 1), (Variant.MT_OC, 3)]
)
def test_shape_follows_the_variant(variant, outcomes):
    model = tiny_model(variant)
    offsets = (1, 2) if variant.multi_token else (1,)
    request = context(2, 3)
    request.feedback_outcome.zero_()
    embedding = generate(model, packed_batch_of(model, [random_history(3, 0), random_history(0, 1)]), request, offsets)
    assert embedding.shape == (2, outcomes, 3 * len(offsets), model.config.item_width)
    torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(embedding.shape[:-1]))


def test_outcomes_steer_as_strongly_as_asked():
    """From what the model says without an outcome over what it says with one, and as far beyond."""
    model, hidden = tiny_model(), torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    condition = condition_of_step(model, (1, 2))
    plain = model.head.conditioned(hidden[:, None, None, :], condition)  # the last condition is that of no outcome
    with torch.inference_mode():
        none, trained, double = (
            step_embeddings(model, hidden, condition, torch.full((2, 3), strength)) for strength in (0.0, 1.0, 2.0)
        )
        of_one = step_embeddings(model, hidden, condition, torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]]))
    torch.testing.assert_close(none, plain[:, 3:].expand(-1, 3, -1, -1), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(trained, plain[:, :3], atol=TOLERANCE, rtol=0)
    beyond = torch.nn.functional.normalize(2 * plain[:, :3] - plain[:, 3:], dim=-1)
    torch.testing.assert_close(double, beyond, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(of_one[0], torch.stack([none[0, 0], trained[0, 1], double[0, 2]]))
    torch.testing.assert_close(of_one[1], trained[1])


def test_what_is_conditioned_on_nothing_cannot_be_steered():
    model, request = tiny_model(Variant.UC), context(1, 3)
    request.feedback_outcome.zero_()
    batch = packed_batch_of(model, [random_history(3, 0)])
    stronger = replace(request, strength=4 * request.strength)
    assert torch.equal(generate(model, batch, request, (1,)), generate(model, batch, stronger, (1,)))


def test_a_canary_after_the_cut_changes_nothing():
    model, history = tiny_model(), random_history(12, 5)
    canary = {name: np.array(getattr(history, name)) for name in History.__slots__}
    canary["item_key"][8:] += 99
    canary["feature"][8:] = 127
    cut = slice(0, 8)
    a = generate(model, packed_batch_of(model, [history.take(cut)]), context(1, 3), (1,))
    b = generate(model, packed_batch_of(model, [History(**canary).take(cut)]), context(1, 3), (1,))
    assert torch.equal(a, b)


def test_half_precision_generates_nearly_the_same():
    """A GPU serves in FP16: 2^-11 relative at each of some ten operations in a row, on unit vectors."""
    model, history, request = tiny_model(), random_history(12, 5), context(1, 4)
    exact = generate(model, packed_batch_of(model, [history]), request, (1, 2))
    half = tiny_model().half()
    batch = packed_batch_of(model, [history])
    torch.testing.assert_close(generate(half, batch, request, (1, 2)).float(), exact, atol=2e-2, rtol=0)


def test_longer_than_the_model_allows_is_refused():
    model = tiny_model()
    with pytest.raises(ConfigError, match=r"steps=9: expected at most max_steps=8"):
        generate(model, packed_batch_of(model, [random_history(2, 0)]), context(1, 9), (1,))


def test_feedback_follows_the_budget_and_its_seed():
    assert (draw_feedback_outcomes(np.array([0.0, 1.0, 0.0]), 6, seed=3) == 1).all()
    draws = np.concatenate([draw_feedback_outcomes(np.array([0.7, 0.3]), 6, seed) for seed in range(2000)])
    assert (draws == 0).mean() == pytest.approx(0.7, abs=0.02)  # 10,000 draws: four standard deviations
    assert (
        draw_feedback_outcomes(np.array([0.5, 0.5]), 6, 1) == draw_feedback_outcomes(np.array([0.5, 0.5]), 6, 1)
    ).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), threshold=st.floats(-0.5, 1.0), n=st.integers(1, 12) | st.just(70))
def test_compression_equals_its_definition(seed, threshold, n):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.nn.functional.normalize(torch.randn(2, 2, n, 3, generator=generator), dim=-1)
    merged, count = compress(embedding, threshold)
    expected, expected_count = compress_reference(embedding, threshold)
    assert torch.equal(count, expected_count)
    # Float32 sums in another order; the sum of nearly opposite vectors is short, and its direction uncertain.
    torch.testing.assert_close(merged, expected, atol=1e-3, rtol=0)
    on_accelerators, accelerator_count = by_fixed_steps(embedding, threshold, torch.ones(n, dtype=torch.float64))
    assert torch.equal(accelerator_count, expected_count)
    torch.testing.assert_close(on_accelerators, expected, atol=1e-3, rtol=0)
    weight = torch.rand(n, generator=generator, dtype=torch.float64) + 0.01
    merged, weighted = compress(embedding, threshold, weight)
    expected, expected_weight = compress_reference(embedding, threshold, weight)
    # Float64 sums in another order.
    torch.testing.assert_close(weighted, expected_weight, atol=1e-12, rtol=0)
    torch.testing.assert_close(merged, expected, atol=1e-3, rtol=0)
    on_accelerators, accelerator_weight = by_fixed_steps(embedding, threshold, weight)
    torch.testing.assert_close(accelerator_weight, weighted, atol=1e-12, rtol=0)
    torch.testing.assert_close(on_accelerators, expected, atol=1e-3, rtol=0)
    assert torch.equal(weighted > 0, count > 0)  # weights decide nothing about merging
    assert weighted.sum(-1).flatten().tolist() == pytest.approx([float(weight.sum())] * 4)


def test_compression_by_hand():
    """In the plane at 0°, 10°, 60°, 15°, 90° with a threshold of cos 20°: 10° and 15° join 0°; 60° and 90° stay."""
    angle = torch.deg2rad(torch.tensor([0.0, 10.0, 60.0, 15.0, 90.0]))
    embedding = torch.stack([angle.cos(), angle.sin()], -1).view(1, 1, 5, 2)
    merged, count = compress(embedding, float(torch.deg2rad(torch.tensor(20.0)).cos()))
    assert count[0, 0].tolist() == [3, 0, 1, 0, 1]
    # The mean of 0°, 10° and 15° lies at 8.34°; what nothing merged into is left as it is, to the bit.
    assert float(torch.rad2deg(torch.atan2(merged[0, 0, 0, 1], merged[0, 0, 0, 0]))) == pytest.approx(8.34, abs=0.01)
    assert torch.equal(merged[0, 0, [2, 4]], embedding[0, 0, [2, 4]])
    assert compression_ratio(count) == pytest.approx(5 / 3)


@pytest.mark.parametrize(("n", "target", "expected"), [(48, 3.0, 3.0), (48, 6.0, 6.0), (6, 6.0, 3.0)])
def test_the_merge_threshold_reaches_the_ratio_asked_for_but_keeps_more_than_one(n, target, expected):
    generator = torch.Generator().manual_seed(0)
    embedding = torch.nn.functional.normalize(torch.randn(64, 2, n, 8, generator=generator) + 0.5, dim=-1)
    threshold = calibrate_merge_cosine(embedding, target)
    assert -1 < threshold < 1
    assert compression_ratio(compress(embedding, threshold)[1]) == pytest.approx(expected, rel=0.05)


@settings(max_examples=200, deadline=None)
@given(
    weights=st.lists(st.floats(0, 1), min_size=1, max_size=6).filter(lambda w: sum(w) > 0.01),
    num_items=st.integers(1, 3000),
    seed=st.integers(0, 100),
    allocation=st.sampled_from(Allocation),
)
def test_quotas_sum_to_n_and_stay_within_one_of_the_exact_share(weights, num_items, seed, allocation):
    budget = np.array(weights) / sum(weights)
    count = np.random.default_rng(seed).integers(0, 4, (len(weights), 5))
    count[:, 0] = 1
    quota = allocate(budget, count, num_items, allocation, seed)
    assert quota.sum() == num_items
    assert (quota >= 0).all()
    assert not quota[count == 0].any()
    assert not quota[budget == 0].any()
    assert (np.abs(quota.sum(1) - budget * num_items) < 1 + 1e-6).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), allocation=st.sampled_from(Allocation))
def test_a_request_is_allocated_the_same_alone_and_in_a_batch(seed, allocation):
    random = np.random.default_rng(seed)
    budget, weight = random.dirichlet(np.ones(3), 4), random.integers(0, 4, (4, 3, 7)).astype(float)
    weight[:, :, 0] += 1
    num_items, seeds = random.integers(1, 500, 4).tolist(), random.integers(0, 9, 4).tolist()
    together = budgets.allocate(budget, weight, num_items, allocation, seeds)
    for b in range(4):
        assert (allocate(budget[b], weight[b], num_items[b], allocation, seeds[b]) == together[b]).all()


def test_allocation_by_hand():
    """10 items at .5/.3/.2; inside the first outcome counts 3:1 share 5 as 3.75/1.25, so 4 and 1."""
    quota = allocate(np.array([0.5, 0.3, 0.2]), np.array([[3, 1], [1, 0], [1, 1]]), 10)
    assert quota.tolist() == [[4, 1], [3, 0], [1, 1]]


def test_later_offsets_weigh_less_than_the_next_item_of_the_same_step():
    """Two steps of δ = 2 and δ = 1 that nothing merges: a fourth for the later offset, half for the later step."""
    config = GenerationConfig(steps=2, offsets=(2, 1), step_discount=0.5, offset_discount=0.25)
    assert own_weights(config, 4, torch.device("cpu")).tolist() == [0.25, 1.0, 0.125, 0.5]


def test_later_steps_weigh_less_by_the_discount():
    """Three steps of two offsets that nothing merges: 140 items as 40, 20 and 10 for each offset of a step."""
    embedding = torch.eye(6).view(1, 1, 6, 6)
    request = Request(history=random_history(3, 0), surface=0, time=1, seed=0, budget=np.ones(1), num_items=140)
    for discount, expected in ((0.5, [40, 40, 20, 20, 10, 10]), (1.0, [24, 24, 23, 23, 23, 23])):
        config = GenerationConfig(steps=3, offsets=(1, 2), step_discount=discount)
        (plan,) = plan_retrieval(embedding, [request], config)
        assert plan.quota.tolist() == expected
    for discount in (0.0, 1.1):
        with pytest.raises(ConfigError, match=r"step_discount=.*: expected a value (above 0|of at most 1)"):
            GenerationConfig(step_discount=discount)


def test_the_order_of_outcomes_does_not_matter():
    budget, count = np.array([0.47, 0.31, 0.22]), np.array([[2, 1], [1, 3], [1, 0]])
    order = [2, 0, 1]
    assert (allocate(budget[order], count[order], 101) == allocate(budget, count, 101)[order]).all()


def test_stochastic_allocation_is_exact_in_expectation():
    budget, count = np.array([0.45, 0.35, 0.2]), np.ones((3, 1), int)
    mean = np.mean([allocate(budget, count, 7, Allocation.STOCHASTIC, s).sum(1) for s in range(4000)], axis=0)
    assert mean == pytest.approx(budget * 7, abs=0.03)  # 4,000 draws of at most one unit: four standard deviations
