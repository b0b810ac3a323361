"""The sampled softmax, against hand-computed cases, loops and finite differences."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pinrec_core.objective import sampled_softmax
from pinrec_core.objective.sampled_softmax import (
    Candidates,
    Positives,
    Queries,
    members,
    pool_log_q,
    sampled_softmax_loss,
    streamed_sampled_softmax_loss,
)

LOSSES = pytest.mark.parametrize("loss_of", [sampled_softmax_loss, streamed_sampled_softmax_loss])


@LOSSES
def test_sampled_softmax_by_hand(loss_of):
    """One query with λ = 2 has two targets with logits 2·1 − log .5 and 2·.6 − log .25. One negative counts, with logit
    2·0 − log .25; the two others are excluded."""
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
    """Losses and all gradients agree for every size of a block. Both compute in FP32, hence a tolerance of 1e-5."""
    monkeypatch.setitem(sampled_softmax.LOGITS_AT_ONCE, "cpu", block)
    weight = torch.rand(50)
    plain, _, plain_leaves = random_losses(sampled_softmax_loss, n=20, m=50, C=31, dtype=torch.float32)
    streamed, _, leaves = random_losses(streamed_sampled_softmax_loss, n=20, m=50, C=31, dtype=torch.float32)
    torch.testing.assert_close(streamed, plain, atol=1e-5, rtol=1e-5)
    (plain * weight).sum().backward()
    (streamed * weight).sum().backward()
    for got, expected in zip(leaves, plain_leaves, strict=True):
        torch.testing.assert_close(got.grad, expected.grad, atol=1e-5, rtol=1e-4)


def test_sampled_softmax_is_differentiated_correctly():
    """The gradients agree with finite differences in FP64."""
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
