"""The objective against slow references and hand-computed cases."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pinrec_core import objective as objective_module
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
    Queries,
    members,
    pool_log_q,
    sampled_softmax_loss,
    streamed_sampled_softmax_loss,
)
from pinrec_core.targets import Targets
from tests.pinrec_core.builders import F, random_history, tiny_config, tiny_model

LOSSES = pytest.mark.parametrize("loss_of", [sampled_softmax_loss, streamed_sampled_softmax_loss])


@LOSSES
def test_sampled_softmax_by_hand(loss_of):
    """One query, λ = 2, two targets with logits 2·1 − log .5 and 2·.6 − log .25; one counted negative with logit
    2·0 − log .25, the two others are excluded."""
    loss = loss_of(
        Queries(vector=torch.tensor([[1.0, 0.0]]), row=torch.tensor([1])),
        Positives(
            item=torch.tensor([[1.0, 0.0], [0.6, 0.8]]),
            log_q=torch.tensor([math.log(0.5), math.log(0.25)]),
            query=torch.tensor([0, 0]),
        ),
        Candidates(
            item=torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]),
            log_q=torch.log(torch.tensor([0.25, 0.5, 0.1])),
            excluded=torch.tensor([[True, True, True], [False, True, True]]),
        ),
        torch.tensor(2.0),
    )
    targets, negative = [math.exp(2) / 0.5, math.exp(1.2) / 0.25], 1 / 0.25
    assert loss.tolist() == pytest.approx([-math.log(t / (t + negative)) for t in targets], abs=1e-6)


def random_losses(loss_of, *, n: int, m: int, C: int, dtype: torch.dtype = torch.float64):
    """Losses of random inputs, these inputs, and the leaves that the losses depend on."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    leaves = [normal(n, 4), normal(m, 4), normal(C, 4), torch.tensor(1.5, dtype=dtype)]
    vector, positive, item, inverse_temperature = (leaf.requires_grad_() for leaf in leaves)
    inputs = (
        Queries(vector=vector, row=torch.randint(0, 3, (n,), generator=generator)),
        Positives(item=positive, log_q=normal(m), query=torch.randint(0, n, (m,), generator=generator)),
        Candidates(item=item, log_q=normal(C), excluded=torch.rand(3, C, generator=generator) < 0.2),
    )
    return loss_of(*inputs, inverse_temperature), inputs, leaves


def test_sampled_softmax_against_loops():
    got, (queries, positives, candidates), _ = random_losses(sampled_softmax_loss, n=4, m=6, C=9)
    for i in range(6):
        q = int(positives.query[i])
        target = 1.5 * queries.vector[q] @ positives.item[i] - positives.log_q[i]
        logits = [target] + [
            1.5 * queries.vector[q] @ candidates.item[c] - candidates.log_q[c]
            for c in range(9)
            if not candidates.excluded[queries.row[q], c]
        ]
        expected = -(target - torch.logsumexp(torch.stack(logits), 0))
        assert got[i].item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize("block", [1, 64, 1 << 18])
def test_streamed_softmax_equals_its_plain_twin(block, monkeypatch):
    """Losses and every gradient, whatever the size of a block. The streamed one works in FP32: hence 1e-5."""
    monkeypatch.setattr(sampled_softmax, "LOGITS_AT_ONCE", block)
    weight = torch.rand(50)
    plain, _, plain_leaves = random_losses(sampled_softmax_loss, n=20, m=50, C=31, dtype=torch.float32)
    streamed, _, leaves = random_losses(streamed_sampled_softmax_loss, n=20, m=50, C=31, dtype=torch.float32)
    torch.testing.assert_close(streamed, plain, atol=1e-5, rtol=1e-5)
    (plain * weight).sum().backward()
    (streamed * weight).sum().backward()
    for got, expected in zip(leaves, plain_leaves, strict=True):
        torch.testing.assert_close(got.grad, expected.grad, atol=1e-5, rtol=1e-4)


def test_sampled_softmax_is_differentiated_correctly():
    """Against finite differences, in FP64."""
    _, (queries, positives, candidates), leaves = random_losses(sampled_softmax_loss, n=2, m=3, C=7)

    def loss(vector, positive, item, inverse_temperature):
        moved = replace(queries, vector=vector), replace(positives, item=positive), replace(candidates, item=item)
        return sampled_softmax_loss(*moved, inverse_temperature)

    assert torch.autograd.gradcheck(loss, leaves)


def test_a_query_without_negatives_has_no_loss_and_no_gradient():
    vector = torch.randn(1, 4, requires_grad=True)
    loss = streamed_sampled_softmax_loss(
        Queries(vector=vector, row=torch.tensor([0])),
        Positives(item=torch.randn(1, 4), log_q=torch.zeros(1), query=torch.tensor([0])),
        Candidates(item=torch.randn(2, 4), log_q=torch.zeros(2), excluded=torch.tensor([[True, True]])),
        torch.tensor(1.0),
    )
    loss.sum().backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert vector.grad.abs().max() < 1e-6


def test_autocast_leaves_the_logits_in_fp32():
    plain, *_ = random_losses(streamed_sampled_softmax_loss, n=10, m=20, C=30, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        under, *_ = random_losses(streamed_sampled_softmax_loss, n=10, m=20, C=30, dtype=torch.float32)
        under.sum().backward()
    torch.testing.assert_close(under, plain)


def test_membership_against_sets():
    torch.manual_seed(1)
    row, key, candidates = torch.randint(0, 4, (25,)), torch.randint(0, 12, (25,)), torch.randint(0, 15, (20,))
    got = members(row, key, 4, candidates)
    for r in range(4):
        own = set(key[row == r].tolist())
        assert got[r].tolist() == [c in own for c in candidates.tolist()]


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
    marginal = -math.log((math.exp(-3) + math.exp(-1)) / 2)
    assert reduce_windows(loss, window, 2, WindowReduction.MARGINAL).item() == pytest.approx((marginal + 5) / 2)


def test_the_marginal_of_a_window_is_differentiated_correctly_and_does_not_underflow():
    window = torch.tensor([0, 0, 1, 1, 1])
    loss = torch.tensor([3.0, 1.0, 5.0, 2.0, 800.0], dtype=torch.float64, requires_grad=True)

    def marginal(loss: torch.Tensor) -> torch.Tensor:
        return reduce_windows(loss, window, 2, WindowReduction.MARGINAL)

    assert torch.autograd.gradcheck(marginal, (loss,))
    assert marginal(loss + 1000).item() == pytest.approx(marginal(loss).item() + 1000)


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


def candidates_of(objective: Objective, batch: TrainingBatch) -> tuple[Candidates, Targets]:
    """The pool that a step would draw, and the targets it would score; the sketch has seen the batch."""
    B, T = batch.item_key.shape
    is_target = (torch.arange(T) < batch.history.length.unsqueeze(1)) & (batch.outcome != NO_OUTCOME)
    objective.sketch.update(batch.item_key[is_target])
    targets = objective._draw_targets(batch, is_target)
    key = batch.item_key[targets.user, targets.target]
    item = torch.randn(B, T, objective.model.config.item_width)
    return objective._candidates(batch, item, is_target, targets, key)[0], targets


def test_log_q_is_that_of_the_pool_that_was_drawn():
    """A batch with fewer targets than in-batch negatives are wanted has a pool of fewer: its mixture counts."""
    config = ObjectiveConfig(in_batch_negatives=512, random_negatives=16)
    objective = Objective(tiny_model(Variant.OC), config, catalogue_size=1000)
    batch = training_batch()
    candidates, _ = candidates_of(objective, batch)
    targets = int((batch.outcome != NO_OUTCOME).sum())
    assert len(candidates.item) == targets + 16 < 512
    stream = objective.sketch.probability(batch.random_key)
    expected = torch.log((targets * stream + 16 / 1000) / (targets + 16))
    torch.testing.assert_close(candidates.log_q[-16:], expected)


def test_a_users_own_positives_are_no_negatives_of_theirs():
    objective = Objective(tiny_model(Variant.UC), ObjectiveConfig(random_negatives=16), catalogue_size=1000)
    batch = training_batch()
    candidates, _ = candidates_of(objective, batch)
    # Every in-batch candidate is one user's own, each item here being unique; the random ones are nobody's.
    assert candidates.excluded.sum(dim=0).tolist() == [1] * (len(candidates.item) - 16) + [0] * 16
    assert candidates.excluded.sum(dim=1).tolist() == (batch.outcome != NO_OUTCOME).sum(dim=1).tolist()


def test_corrections_can_be_left_out_to_measure_them():
    """Without the mask a window excludes its own targets and nothing else."""
    config = ObjectiveConfig(log_q=False, mask_own_positives=False, window=2, random_negatives=16)
    objective = Objective(tiny_model(Variant.MT), config, catalogue_size=1000)
    candidates, targets = candidates_of(objective, training_batch())
    assert candidates.excluded.sum(dim=1).tolist() == torch.bincount(targets.window).tolist()
    assert not candidates.log_q.any()


def test_targets_of_a_window_that_are_conditioned_alike_share_a_query(monkeypatch):
    """MT asks once per window, {MT,OC} once per window and outcome."""
    asked = {}

    def count(queries, positives, *rest):
        asked[variant] = (len(queries.vector), len(positives.item))
        return streamed_sampled_softmax_loss(queries, positives, *rest)

    monkeypatch.setattr(objective_module, "streamed_sampled_softmax_loss", count)
    for variant in (Variant.MT, Variant.MT_OC):
        torch.manual_seed(0)
        model = tiny_model(variant)
        torch.manual_seed(0)
        Objective(model, ObjectiveConfig(window=8, random_negatives=16), catalogue_size=1000)(
            training_batch(lengths=(20, 20, 20))
        )
    assert asked[Variant.MT][1] == asked[Variant.MT_OC][1]
    assert asked[Variant.MT][0] < asked[Variant.MT_OC][0] < asked[Variant.MT_OC][1]


def test_the_sketch_counts_training_and_nothing_else():
    objective = Objective(tiny_model(Variant.UC), ObjectiveConfig(random_negatives=16), catalogue_size=1000)
    batch = training_batch()
    objective.eval()(batch)
    assert objective.sketch.total == 0
    objective.train()(batch)
    assert objective.sketch.total == (batch.outcome != NO_OUTCOME).sum()


def test_a_batch_without_a_window_has_no_loss_and_no_gradient_that_is_not_finite():
    """Users who only searched: there is nothing to predict."""
    model = tiny_model(Variant.MT_OC, max_offset=4).train()
    objective = Objective(model, ObjectiveConfig(random_negatives=16), catalogue_size=1000)
    batch = training_batch()
    loss = objective(replace(batch, outcome=torch.full_like(batch.outcome, NO_OUTCOME)))
    loss.backward()
    assert loss == 0
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
