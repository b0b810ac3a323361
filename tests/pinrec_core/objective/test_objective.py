"""The objective, against slow references and hand-computed cases."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pinrec_core.config.sections import ObjectiveConfig, Variant, WindowReduction
from pinrec_core.history import NO_OUTCOME, History
from pinrec_core.model.collate import collate, pad
from pinrec_core.model.variants import trainable_model
from pinrec_core.objective import objective as objective_module
from pinrec_core.objective.objective import Objective, TrainingBatch, reduce_windows
from pinrec_core.objective.sampled_softmax import (
    Candidates,
    Positives,
    Queries,
    streamed_sampled_softmax_loss,
)
from pinrec_core.objective.targets import Targets
from tests.pinrec_core.builders import F, random_history, tiny_config, tiny_model


@pytest.mark.parametrize("variant", [Variant.MT_OC, Variant.SASREC])
def test_autocast_leaves_vectors_at_length_1(variant, monkeypatch):
    """Rounded to the eight bits of BF16 they would have lengths from .996 to 1.004."""
    torch.manual_seed(0)
    model = trainable_model(tiny_config(variant, id_width=16))
    objective = Objective(model, ObjectiveConfig(random_negatives=16), catalogue_size=1000)
    with torch.autocast("cpu", torch.bfloat16):
        queries, positives, candidates, _ = in_step(objective, training_batch(), monkeypatch)
    for vectors in (queries.vector, positives.item, candidates.item):
        torch.testing.assert_close(vectors.float().norm(dim=-1), torch.ones(len(vectors)), atol=1e-5, rtol=0)


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


def test_a_step_makes_nothing_of_the_size_of_the_catalogue():
    """This looks at the results of every operator, in the forward and in the backward pass."""
    largest = []
    for catalogue_size in (1000, 10**9):
        torch.manual_seed(0)
        model = trainable_model(tiny_config(Variant.MT_OC, id_width=16)).train()
        objective = Objective(model, ObjectiveConfig(random_negatives=16), catalogue_size=catalogue_size)
        with LargestTensor() as seen:
            objective(training_batch()).backward()
        largest.append(seen.elements)
    assert largest[0] == largest[1] > 0


class LargestTensor(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, (tuple, list)) else [results]:
            if isinstance(result, torch.Tensor):
                self.elements = max(self.elements, result.numel())
        return results


@pytest.mark.parametrize("variant", list(Variant))
def test_every_part_of_the_model_gets_a_gradient(variant):
    torch.manual_seed(0)
    model = trainable_model(tiny_config(variant, id_width=16)).train()
    objective = Objective(model, ObjectiveConfig(random_negatives=16), catalogue_size=1000)
    for seed in range(4):  # several batches, so that every offset and outcome is drawn
        objective(training_batch(seed)).backward()
    without = [name for name, p in objective.named_parameters() if p.grad is None or not p.grad.to_dense().any()]
    assert without == []


def in_step(objective: Objective, batch: TrainingBatch, monkeypatch) -> tuple[Queries, Positives, Candidates, Targets]:
    """What a step scores: the three inputs of its loss, and the targets that it drew."""
    seen = []
    draw, loss_of = objective._draw_targets, streamed_sampled_softmax_loss
    monkeypatch.setattr(objective, "_draw_targets", lambda *given: seen.append(draw(*given)) or seen[-1])
    monkeypatch.setattr(
        objective_module, "streamed_sampled_softmax_loss", lambda *given: seen.extend(given[:3]) or loss_of(*given)
    )
    objective(batch)
    targets, *scored = seen
    return (*scored, targets)


def test_log_q_is_that_of_the_pool_that_was_drawn(monkeypatch):
    """A batch may have fewer targets than ``in_batch_negatives``. log Q then is that of the smaller pool."""
    config = ObjectiveConfig(in_batch_negatives=512, random_negatives=16)
    objective = Objective(tiny_model(Variant.OC).train(), config, catalogue_size=1000)
    batch = training_batch()
    _, _, candidates, _ = in_step(objective, batch, monkeypatch)
    targets = int((batch.outcome != NO_OUTCOME).sum())
    assert len(candidates.item) == targets + 16 < 512
    stream = objective.sketch.probability(batch.random_key)
    expected = torch.log((targets * stream + 16 / 1000) / (targets + 16))
    torch.testing.assert_close(candidates.log_q[-16:], expected)


def test_a_users_own_positives_are_no_negatives_of_theirs(monkeypatch):
    objective = Objective(tiny_model(Variant.UC), ObjectiveConfig(random_negatives=16), catalogue_size=1000)
    batch = training_batch()
    _, _, candidates, _ = in_step(objective, batch, monkeypatch)
    # No item occurs twice here, so every in-batch candidate belongs to one user, and the random ones to nobody.
    assert candidates.excluded.sum(dim=0).tolist() == [1] * (len(candidates.item) - 16) + [0] * 16
    assert candidates.excluded.sum(dim=1).tolist() == (batch.outcome != NO_OUTCOME).sum(dim=1).tolist()


def test_corrections_can_be_left_out_to_measure_them(monkeypatch):
    """Without the mask a window excludes its own targets only."""
    config = ObjectiveConfig(log_q=False, mask_own_positives=False, window=2, random_negatives=16)
    objective = Objective(tiny_model(Variant.MT), config, catalogue_size=1000)
    _, _, candidates, targets = in_step(objective, training_batch(), monkeypatch)
    assert candidates.excluded.sum(dim=1).tolist() == torch.bincount(targets.window).tolist()
    assert not candidates.log_q.any()


def with_repeated_items(batch: TrainingBatch, catalogue_size: int) -> TrainingBatch:
    """The batch with keys such that users share items with one another and with the random items."""
    return replace(
        batch, item_key=batch.item_key % catalogue_size, random_key=torch.arange(16) % catalogue_size,
    )  # fmt: skip


@torch.no_grad()
def loss_in_loops(
    objective: Objective, batch: TrainingBatch, targets: Targets, outcomes: torch.Tensor, drawn: torch.Tensor
) -> float:
    """The loss of one step in FP64, computed pair by pair from the definition (eq. 2, 3 and 5)."""
    model, config, V = objective.model, objective.config, objective.catalogue_size
    ids = model.id_embedding(batch.item_key.flatten()).unflatten(0, batch.item_key.shape)
    hidden, item = (x.double() for x in model(replace(batch.history, id_embedding=ids)))
    random = model.represent_pins(batch.random_feature, batch.random_scale, model.id_embedding(batch.random_key))
    stream = [
        (u, t) for u, length in enumerate(batch.history.length.tolist()) for t in range(length)
        if batch.outcome[u, t] != NO_OUTCOME
    ]  # fmt: skip
    keys = [int(batch.item_key[at]) for at in stream]
    in_batch = [stream[i] for i in drawn.tolist()]
    pool = [(int(batch.item_key[at]), item[at]) for at in in_batch]
    pool += [(int(key), vector.double()) for key, vector in zip(batch.random_key, random, strict=True)]

    def log_q(key: int) -> float:
        share = max(1, keys.count(key)) / len(keys)
        return math.log((len(in_batch) * share + 16 / V) / len(pool))

    windows: dict[int, list[float]] = {}
    names = ("user", "position", "target", "offset", "window")
    for user, position, target, offset, window, outcome in zip(
        *(getattr(targets, name).tolist() for name in names), outcomes.tolist(), strict=True
    ):
        condition = model.head.condition(torch.tensor(outcome), torch.tensor(offset))
        query = model.head.conditioned(hidden[user, position].float(), condition).double()
        own = {int(batch.item_key[u, t]) for u, t in stream if u == user}

        def score(key: int, vector: torch.Tensor, query: torch.Tensor = query) -> float:
            return math.exp(float(objective.inverse_temperature.double() * (query @ vector)) - log_q(key))

        positive = score(int(batch.item_key[user, target]), item[user, target])
        negatives = sum(score(key, vector) for key, vector in pool if key not in own)
        windows.setdefault(window, []).append(-math.log(positive / (positive + negatives)))
    reduced = {
        WindowReduction.MEAN: lambda losses: sum(losses) / len(losses),
        WindowReduction.MIN: min,
        WindowReduction.MARGINAL: lambda ls: -math.log(sum(math.exp(-loss) for loss in ls) / len(ls)),
    }[config.window_reduction]
    return sum(map(reduced, windows.values())) / len(windows)


@pytest.mark.parametrize("reduction", list(WindowReduction))
@pytest.mark.parametrize("variant", [v for v in Variant if v not in (Variant.SASREC, Variant.DOT_PRODUCT)])
def test_the_loss_of_a_step_against_loops(variant, reduction, monkeypatch):
    """For the same targets and pool, this checks conditioning, negatives, masks, and log Q of targets and negatives."""
    model = tiny_model(variant, max_offset=4).train()  # its dropout is 0
    config = ObjectiveConfig(
        window=4, window_reduction=reduction, in_batch_negatives=7, random_negatives=16, init_temperature=0.5,
    )  # fmt: skip
    objective = Objective(model, config, catalogue_size=40)
    batch = with_repeated_items(training_batch(), 40)
    drawn, permutation = [], torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *a, **k: drawn.append(permutation(*a, **k)) or drawn[-1])
    targets = []
    draw = objective._draw_targets
    monkeypatch.setattr(objective, "_draw_targets", lambda *given: targets.append(draw(*given)) or targets[-1])
    outcomes = []
    choose = objective._conditioned_on
    monkeypatch.setattr(objective, "_conditioned_on", lambda *given: outcomes.append(choose(*given)) or outcomes[-1])
    loss = objective(batch)
    # FP32 against FP64, with logits up to 2.
    expected = loss_in_loops(objective, batch, targets[0], outcomes[0], drawn[-1][:7])
    assert loss.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_share_of_the_windows_is_predicted_without_an_outcome_and_only_in_training(share):
    objective = Objective(tiny_model(), ObjectiveConfig(outcome_dropout=share), catalogue_size=10)
    outcome, window = torch.arange(60_000) % 3, torch.arange(60_000) // 3
    targets = Targets(user=window, position=window, target=window, offset=window, window=window, num_windows=20_000)
    chosen = objective.train()._conditioned_on(outcome, targets).view(-1, 3)
    without = (chosen == 3).any(dim=1)
    assert torch.equal(without, (chosen == 3).all(dim=1))  # all targets of a window or none
    assert torch.equal(chosen[~without], outcome.view(-1, 3)[~without])
    assert without.float().mean() == pytest.approx(share, abs=0.013)  # four standard errors
    assert torch.equal(objective.eval()._conditioned_on(outcome, targets), outcome)
    unconditioned = Objective(tiny_model(Variant.MT), ObjectiveConfig(outcome_dropout=share), catalogue_size=10)
    assert not unconditioned.train()._conditioned_on(outcome, targets).any()


def test_targets_of_a_window_that_are_conditioned_alike_share_a_query(monkeypatch):
    """MT has one query per window, {MT,OC} one per window and outcome."""
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
    """These users only searched, so there is nothing to predict."""
    model = tiny_model(Variant.MT_OC, max_offset=4).train()
    objective = Objective(model, ObjectiveConfig(random_negatives=16), catalogue_size=1000)
    batch = training_batch()
    loss = objective(replace(batch, outcome=torch.full_like(batch.outcome, NO_OUTCOME)))
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or p.grad.to_dense().isfinite().all() for p in model.parameters())


def test_what_comes_after_the_target_changes_nothing(monkeypatch):
    """With the same negatives, the losses of the first five items are the same whatever follows them."""
    model = tiny_model(Variant.OC)
    history = random_history(10, seed=3, queries=False)
    other = random_history(10, seed=4, queries=False)
    changed = History(
        **{f: np.concatenate([getattr(history, f)[:5], getattr(other, f)[5:]]) for f in History.__dataclass_fields__}
    )

    def first_losses(h: History) -> torch.Tensor:
        config = ObjectiveConfig(in_batch_negatives=0, random_negatives=16, outcome_dropout=0.0)
        objective = Objective(model, config, catalogue_size=1000)
        losses: list[torch.Tensor] = []

        def remember(*given: object) -> torch.Tensor:
            losses.append(streamed_sampled_softmax_loss(*given))
            return losses[-1]

        monkeypatch.setattr(objective_module, "streamed_sampled_softmax_loss", remember)
        objective(replace(training_batch(), history=collate([h]), **{
            name: torch.from_numpy(getattr(h, name)).long().unsqueeze(0) for name in ("item_key", "outcome")
        }))  # fmt: skip
        assert len(losses[0]) == 10  # every position, in order
        return losses[0]

    assert not torch.allclose(first_losses(history)[5:], first_losses(changed)[5:])
    torch.testing.assert_close(first_losses(history)[:5], first_losses(changed)[:5])


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
