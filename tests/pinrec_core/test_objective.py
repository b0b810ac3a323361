"""The objective against slow references and hand-computed cases."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pinrec_core import sampled_softmax
from pinrec_core.collate import collate, pad
from pinrec_core.config import ObjectiveConfig, Variant, WindowReduction
from pinrec_core.count_min_sketch import CountMinSketch
from pinrec_core.history import NO_OUTCOME, History
from pinrec_core.model_of_variant import trainable_model
from pinrec_core.objective import Objective, TrainingBatch, reduce_windows
from pinrec_core.sampled_softmax import (
    Candidates,
    Positives,
    members_of_own_history,
    pool_log_q,
    sampled_softmax_loss,
    streamed_sampled_softmax_loss,
)
from tests.pinrec_core.builders import F, random_history, tiny_config, tiny_model

LOSSES = pytest.mark.parametrize("loss_of", [sampled_softmax_loss, streamed_sampled_softmax_loss])


@LOSSES
def test_sampled_softmax_by_hand(loss_of):
    """One query, λ = 2: positive logit 2·1 − log .5, one counted negative with logit 2·0 − log .25; the equal id and
    the user's own positive do not count."""
    loss = loss_of(
        torch.tensor([[1.0, 0.0]]),
        Positives(
            item=torch.tensor([[1.0, 0.0]]),
            item_key=torch.tensor([7]),
            log_q=torch.tensor([math.log(0.5)]),
            user=torch.tensor([1]),
        ),
        Candidates(
            item=torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]),
            item_key=torch.tensor([1, 7, 3]),
            log_q=torch.log(torch.tensor([0.25, 0.5, 0.1])),
            own=torch.tensor([[True, True, True], [False, False, True]]),
        ),
        torch.tensor(2.0),
    )
    positive, negative = math.exp(2) / 0.5, 1 / 0.25
    assert loss.item() == pytest.approx(-math.log(positive / (positive + negative)), abs=1e-6)


def random_losses(loss_of, *, m: int, C: int, seed: int = 0, dtype: torch.dtype = torch.float64):
    """Losses of random inputs, with the leaves they depend on."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    query, positive, item = normal(m, 4), normal(m, 4), normal(C, 4)
    inverse_temperature = torch.tensor(1.5, dtype=dtype, requires_grad=True)
    positives = Positives(
        item=positive,
        item_key=torch.randint(0, 5, (m,), generator=generator),
        log_q=normal(m).detach(),
        user=torch.randint(0, 3, (m,), generator=generator),
    )
    candidates = Candidates(
        item=item,
        item_key=torch.randint(0, 5, (C,), generator=generator),
        log_q=normal(C).detach(),
        own=torch.rand(3, C, generator=generator) < 0.2,
    )
    loss = loss_of(query, positives, candidates, inverse_temperature)
    return loss, positives, candidates, (query, positive, item, inverse_temperature)


def test_sampled_softmax_against_loops():
    got, positives, candidates, (query, positive, item, _) = random_losses(sampled_softmax_loss, m=6, C=9)
    for i in range(6):
        top = 1.5 * query[i] @ positive[i] - positives.log_q[i]
        own = candidates.own[positives.user[i]]
        logits = [top] + [
            1.5 * query[i] @ item[c] - candidates.log_q[c]
            for c in range(9)
            if not own[c] and candidates.item_key[c] != positives.item_key[i]
        ]
        expected = -(top - torch.logsumexp(torch.stack(logits), 0))
        assert got[i].item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize("block", [1, 64, 1 << 18])
def test_streamed_softmax_equals_its_plain_twin(block, monkeypatch):
    """Losses and every gradient, whatever the size of a block. The streamed one works in FP32: hence 1e-5."""
    monkeypatch.setattr(sampled_softmax, "LOGITS_AT_ONCE", block)
    weight = torch.rand(50)
    plain, _, _, plain_leaves = random_losses(sampled_softmax_loss, m=50, C=31, dtype=torch.float32)
    streamed, _, _, leaves = random_losses(streamed_sampled_softmax_loss, m=50, C=31, dtype=torch.float32)
    torch.testing.assert_close(streamed, plain, atol=1e-5, rtol=1e-5)
    (plain * weight).sum().backward()
    (streamed * weight).sum().backward()
    for got, expected in zip(leaves, plain_leaves, strict=True):
        torch.testing.assert_close(got.grad, expected.grad, atol=1e-5, rtol=1e-4)


def test_streamed_softmax_is_differentiated_correctly():
    """Against finite differences of the plain loss, in FP64."""
    _, positives, candidates, leaves = random_losses(sampled_softmax_loss, m=3, C=7)

    def loss(query, positive, item, inverse_temperature):
        moved = replace(positives, item=positive), replace(candidates, item=item)
        return sampled_softmax_loss(query, *moved, inverse_temperature)

    assert torch.autograd.gradcheck(loss, leaves)


def test_a_query_without_negatives_has_no_loss_and_no_gradient():
    query = torch.randn(1, 4, requires_grad=True)
    loss = streamed_sampled_softmax_loss(
        query,
        Positives(item=torch.randn(1, 4), item_key=torch.tensor([3]), log_q=torch.zeros(1), user=torch.tensor([0])),
        Candidates(
            item=torch.randn(2, 4), item_key=torch.tensor([3, 4]), log_q=torch.zeros(2),
            own=torch.tensor([[False, True]]),
        ),
        torch.tensor(1.0),
    )  # fmt: skip
    loss.sum().backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert query.grad.abs().max() < 1e-6


def test_autocast_leaves_the_logits_in_fp32():
    plain, *_ = random_losses(streamed_sampled_softmax_loss, m=20, C=30, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        under, *_ = random_losses(streamed_sampled_softmax_loss, m=20, C=30, dtype=torch.float32)
        under.sum().backward()
    torch.testing.assert_close(under, plain)


def test_own_history_membership_against_sets():
    torch.manual_seed(1)
    keys, positive = torch.randint(0, 12, (4, 10)), torch.rand(4, 10) < 0.6
    candidates = torch.randint(0, 15, (20,))
    got = members_of_own_history(keys, positive, candidates)
    for b in range(4):
        own = set(keys[b][positive[b]].tolist())
        assert got[b].tolist() == [c in own for c in candidates.tolist()]


def test_pool_probability_is_the_mixture():
    log_q = pool_log_q(torch.tensor([0.2, 0.0]), in_batch=10, random=30, catalogue_size=100)
    assert log_q.exp().tolist() == pytest.approx([(10 * 0.2 + 30 / 100) / 40, 30 / 100 / 40])


def test_sketch_never_underestimates_and_keeps_its_bound():
    torch.manual_seed(2)
    sketch = CountMinSketch(width=2048, depth=4)
    keys = (torch.rand(50_000) ** 4 * 20_000).long()
    for part in keys.split(1000):
        sketch.update(part)
    distinct, true = keys.unique(return_counts=True)
    estimate = sketch.probability(distinct) * len(keys)
    error = estimate - true
    assert error.min() > -0.5  # float32 division and back
    bound = math.e / 2048 * len(keys)
    assert (error > bound).float().mean() <= math.exp(-4)


def test_window_reduction_by_hand():
    loss, window = torch.tensor([3.0, 1.0, 5.0]), torch.tensor([0, 0, 1])
    assert reduce_windows(loss, window, 2, WindowReduction.MEAN).item() == pytest.approx((2 + 5) / 2)
    assert reduce_windows(loss, window, 2, WindowReduction.MIN).item() == pytest.approx((1 + 5) / 2)


def training_batch(seed: int = 0, lengths: tuple[int, ...] = (5, 12, 2)) -> TrainingBatch:
    histories = [random_history(n, seed + n) for n in lengths]
    generator = torch.Generator().manual_seed(seed)
    return TrainingBatch(
        history=collate(histories),
        item_key=pad([h.item_key for h in histories]),
        outcome=pad([h.outcome for h in histories], fill=NO_OUTCOME).long(),
        random_key=torch.randint(0, 1000, (16,), generator=generator),
        random_feature=torch.randint(-127, 128, (16, F), generator=generator).to(torch.int8),
        random_scale=torch.full((16,), 1 / 127),
    )


@pytest.mark.parametrize("variant", list(Variant))
def test_every_part_of_the_model_gets_a_gradient(variant):
    torch.manual_seed(0)
    model = trainable_model(tiny_config(variant, id_width=16)).train()
    objective = Objective(model, ObjectiveConfig(random_negatives=16), catalogue_size=1000)
    for seed in range(4):  # an offset or outcome that one batch does not draw, another does
        objective(training_batch(seed)).backward()
    without = [name for name, p in objective.named_parameters() if p.grad is None or not p.grad.to_dense().any()]
    assert without == []


def test_log_q_is_that_of_the_pool_that_was_drawn():
    """A batch with fewer targets than in-batch negatives are wanted has a pool of fewer: its mixture counts."""
    model = tiny_model(Variant.OC)
    config = ObjectiveConfig(in_batch_negatives=512, random_negatives=16)
    objective = Objective(model, config, catalogue_size=1000)
    batch = training_batch()
    B, T = batch.item_key.shape
    is_target = (torch.arange(T) < batch.history.length.unsqueeze(1)) & (batch.outcome != NO_OUTCOME)
    objective.sketch.update(batch.item_key[is_target])
    candidates, _ = objective._candidates(batch, torch.randn(B, T, model.config.item_width), is_target)
    targets = int(is_target.sum())
    assert len(candidates.item_key) == targets + 16 < 512
    stream = objective.sketch.probability(candidates.item_key)
    expected = torch.log((targets * stream + 16 / 1000) / (targets + 16))
    torch.testing.assert_close(candidates.log_q, expected)


def test_corrections_can_be_left_out_to_measure_them():
    objective = Objective(
        tiny_model(Variant.UC), ObjectiveConfig(log_q=False, mask_own_positives=False), catalogue_size=1000
    )
    batch = training_batch()
    B, T = batch.item_key.shape
    is_target = torch.arange(T) < batch.history.length.unsqueeze(1)
    candidates, log_q = objective._candidates(batch, torch.randn(B, T, 16), is_target)
    assert not candidates.own.any()
    assert not candidates.log_q.any()
    assert not log_q(batch.random_key).any()


def test_the_sketch_counts_training_and_nothing_else():
    objective = Objective(tiny_model(Variant.UC), ObjectiveConfig(random_negatives=16), catalogue_size=1000)
    batch = training_batch()
    objective.eval()(batch)
    assert objective.sketch.total == 0
    objective.train()(batch)
    assert objective.sketch.total == (batch.outcome != NO_OUTCOME).sum()


def test_a_batch_without_a_window_has_no_loss_and_no_gradient_that_is_not_finite():
    """One user with one interaction: an offset of 2 or more reaches no target."""
    model = tiny_model(Variant.MT_OC, max_offset=4).train()
    objective = Objective(model, ObjectiveConfig(random_negatives=16), catalogue_size=1000)
    torch.manual_seed(0)
    losses = []
    for _ in range(12):
        losses.append(objective(training_batch(lengths=(1,))))
        losses[-1].backward()
    assert torch.stack(losses).isfinite().all()
    assert any(loss == 0 for loss in losses)
    assert all(p.grad is None or p.grad.to_dense().isfinite().all() for p in model.parameters())


def test_what_comes_after_the_target_changes_nothing():
    """A canary: the loss of predicting the first four items is the same whatever follows them."""
    model = tiny_model(Variant.OC)
    history = random_history(10, seed=3, queries=False)
    other = random_history(10, seed=4, queries=False)
    changed = History(
        **{f: np.concatenate([getattr(history, f)[:5], getattr(other, f)[5:]]) for f in History.__dataclass_fields__}
    )

    def hidden(h: History) -> torch.Tensor:
        ids = model.id_embedding(torch.from_numpy(h.item_key)).unsqueeze(0)
        return model(collate([h], ids))[0]

    assert not torch.equal(hidden(history)[:, 6:], hidden(changed)[:, 6:])
    torch.testing.assert_close(hidden(history)[:, :6], hidden(changed)[:, :6])


def test_inverse_temperature_is_capped():
    objective = Objective(tiny_model(), ObjectiveConfig(), catalogue_size=10)
    assert objective.inverse_temperature.item() == pytest.approx(1 / 0.07, rel=1e-5)
    torch.nn.init.constant_(objective.log_inverse_temperature, 20.0)
    assert objective.inverse_temperature.item() == pytest.approx(100.0, rel=1e-6)


def test_a_capped_temperature_can_come_down_again():
    objective = Objective(tiny_model(), ObjectiveConfig(), catalogue_size=10)
    torch.nn.init.constant_(objective.log_inverse_temperature, 20.0)
    objective.cap_temperature()
    objective.inverse_temperature.backward()
    assert objective.log_inverse_temperature.grad.item() == pytest.approx(100.0, rel=1e-6)
