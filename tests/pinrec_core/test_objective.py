"""The objective against slow references and hand-computed cases."""

from __future__ import annotations

import math

import pytest
import torch

from pinrec_core.collate import collate, pad
from pinrec_core.config import ObjectiveConfig, Variant, WindowReduction
from pinrec_core.count_min_sketch import CountMinSketch
from pinrec_core.history import NO_OUTCOME
from pinrec_core.objective import Objective, TrainingBatch, reduce_windows
from pinrec_core.sampled_softmax import Candidates, members_of_own_history, pool_log_q, sampled_softmax_loss
from tests.pinrec_core.builders import F, random_history, tiny_model


def test_sampled_softmax_by_hand():
    """One query, λ = 2: positive logit 2·1 − log .5, one counted negative with logit 2·0 − log .25; the equal id and
    the user's own positive do not count."""
    loss = sampled_softmax_loss(
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([7]),
        torch.tensor([math.log(0.5)]),
        Candidates(
            item=torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]),
            item_key=torch.tensor([1, 7, 3]),
            log_q=torch.log(torch.tensor([0.25, 0.5, 0.1])),
        ),
        torch.tensor([[False, False, True]]),
        torch.tensor(2.0),
    )
    positive, negative = math.exp(2) / 0.5, 1 / 0.25
    assert loss.item() == pytest.approx(-math.log(positive / (positive + negative)), abs=1e-6)


def test_sampled_softmax_against_loops():
    torch.manual_seed(0)
    n, C, D = 6, 9, 4
    query, positive, item = torch.randn(n, D), torch.randn(n, D), torch.randn(C, D)
    positive_key, item_key = torch.randint(0, 5, (n,)), torch.randint(0, 5, (C,))
    positive_log_q, log_q = torch.randn(n), torch.randn(C)
    own = torch.rand(n, C) < 0.2
    got = sampled_softmax_loss(
        query, positive, positive_key, positive_log_q,
        Candidates(item=item, item_key=item_key, log_q=log_q), own, torch.tensor(1.5),
    )  # fmt: skip
    for i in range(n):
        top = 1.5 * query[i] @ positive[i] - positive_log_q[i]
        logits = [top] + [
            1.5 * query[i] @ item[c] - log_q[c] for c in range(C) if not own[i, c] and item_key[c] != positive_key[i]
        ]
        expected = -(top - torch.logsumexp(torch.stack(logits), 0))
        assert got[i].item() == pytest.approx(expected.item(), abs=1e-5)


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


def training_batch(model, seed: int = 0, lengths: tuple[int, ...] = (5, 12, 2)) -> TrainingBatch:
    histories = [random_history(n, seed + n) for n in lengths]
    key = pad([h.item_key for h in histories])
    ids = model.id_embedding(key.flatten()).view(*key.shape, -1)
    generator = torch.Generator().manual_seed(seed)
    return TrainingBatch(
        history=collate(histories, ids),
        item_key=key,
        outcome=pad([h.outcome for h in histories], fill=NO_OUTCOME).long(),
        random_key=torch.randint(0, 1000, (16,), generator=generator),
        random_feature=torch.randint(-127, 128, (16, F), generator=generator).to(torch.int8),
        random_scale=torch.full((16,), 1 / 127),
    )


@pytest.mark.parametrize("variant", list(Variant))
def test_every_part_of_the_model_gets_a_gradient(variant):
    model = tiny_model(variant).train()
    objective = Objective(model.config, ObjectiveConfig(random_negatives=16), catalogue_size=1000)
    objective(model, training_batch(model)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert objective.log_inverse_temperature.grad.abs() > 0


def test_one_window_per_target_position_for_next_token():
    """With δ = W = 1 every target but none else is predicted, and each once."""
    objective = Objective(tiny_model(Variant.OC).config, ObjectiveConfig(), catalogue_size=10)
    is_target = torch.tensor([[True, False, True, False], [True, True, True, True]])
    user, position, offset = objective._draw_windows(is_target)
    assert sorted(zip(user.tolist(), position.tolist(), strict=True)) == [
        (0, 0),
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 2),
        (1, 3),
    ]
    assert offset.unique().tolist() == [1]


def test_windows_hold_a_target_and_every_offset_is_drawn():
    objective = Objective(tiny_model(Variant.MT_OC, max_offset=4).config, ObjectiveConfig(window=2), catalogue_size=10)
    is_target = torch.zeros(1, 12, dtype=torch.bool)
    is_target[0, 6] = True
    seen = set()
    torch.manual_seed(0)
    for _ in range(200):
        user, position, offset = objective._draw_windows(is_target)
        first = position + offset - 1
        assert ((first <= 6) & (6 < first + 2)).all()
        seen |= set(offset.tolist())
    assert seen == {1, 2, 3, 4}


def test_log_q_is_that_of_the_pool_that_was_drawn():
    """A batch with fewer targets than in-batch negatives are wanted has a pool of fewer: its mixture counts."""
    model = tiny_model(Variant.OC)
    config = ObjectiveConfig(in_batch_negatives=512, random_negatives=16)
    objective = Objective(model.config, config, catalogue_size=1000)
    batch = training_batch(model)
    T = batch.item_key.shape[1]
    is_target = (torch.arange(T) < batch.history.length.unsqueeze(1)) & (batch.outcome != NO_OUTCOME)
    objective.sketch.update(batch.item_key[is_target])
    candidates, _ = objective._candidates(model, batch, model.represent_items(batch.history), is_target)
    targets = int(is_target.sum())
    assert len(candidates.item_key) == targets + 16 < 512
    stream = objective.sketch.probability(candidates.item_key)
    expected = torch.log((targets * stream + 16 / 1000) / (targets + 16))
    torch.testing.assert_close(candidates.log_q, expected)


def test_a_batch_without_a_window_has_no_loss_and_no_gradient_that_is_not_finite():
    """One user with one interaction: an offset of 2 or more reaches no target."""
    model = tiny_model(Variant.MT_OC, max_offset=4).train()
    objective = Objective(model.config, ObjectiveConfig(random_negatives=16), catalogue_size=1000)
    torch.manual_seed(0)
    losses = []
    for _ in range(12):
        losses.append(objective(model, training_batch(model, lengths=(1,))))
        losses[-1].backward()
    assert torch.stack(losses).isfinite().all()
    assert any(loss == 0 for loss in losses)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_inverse_temperature_is_capped():
    objective = Objective(tiny_model().config, ObjectiveConfig(), catalogue_size=10)
    assert objective.inverse_temperature.item() == pytest.approx(1 / 0.07, rel=1e-5)
    torch.nn.init.constant_(objective.log_inverse_temperature, 20.0)
    assert objective.inverse_temperature.item() == pytest.approx(100.0, rel=1e-6)


def test_a_capped_temperature_can_come_down_again():
    objective = Objective(tiny_model().config, ObjectiveConfig(), catalogue_size=10)
    torch.nn.init.constant_(objective.log_inverse_temperature, 20.0)
    objective.cap_temperature()
    objective.inverse_temperature.backward()
    assert objective.log_inverse_temperature.grad.item() == pytest.approx(100.0, rel=1e-6)
