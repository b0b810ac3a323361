"""Sampled softmax with sampling correction and masks (eq. 2).

``sampled_softmax_loss`` is the definition; ``streamed_sampled_softmax_loss`` gives the same losses and gradients
block by block, without ever holding the logits of all queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LOGITS_AT_ONCE = 1 << 18
"""Logits of one block, 1 MiB: they stay in the cache of a core while they are masked, exponentiated and multiplied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The C negatives that every query of a step shares: in-batch targets, then random items. Repeats are allowed.

    ``log_q`` is the log probability that a draw of this pool is this item; ``own`` says which candidates each user of
    the batch has among their own positives: these are no negatives of theirs.
    """

    item: Tensor  # float [C, D]
    item_key: Tensor  # int64 [C]
    log_q: Tensor  # float [C]
    own: Tensor  # bool [B, C]


@dataclass(frozen=True, slots=True, kw_only=True)
class Positives:
    """What m queries have to predict, and whose they are."""

    item: Tensor  # float [m, D]
    item_key: Tensor  # int64 [m]
    log_q: Tensor  # float [m]
    user: Tensor  # int64 [m], row of ``Candidates.own``


def sampled_softmax_loss(
    query: Tensor, positives: Positives, candidates: Candidates, inverse_temperature: Tensor
) -> Tensor:
    """Cross-entropy of each positive against the candidates: queries ``[m, D]`` → float ``[m]``.

    Logits are s(z, i) = λ·⟨z, e_i⟩ − log Q(i). A candidate is masked where it is the positive itself (equal key) or
    another positive of the same user: neither is a negative.
    """
    positive_logit = inverse_temperature * (query * positives.item).sum(-1) - positives.log_q
    negative_logit = inverse_temperature * (query @ candidates.item.T) - candidates.log_q
    masked = candidates.own[positives.user] | (candidates.item_key == positives.item_key.unsqueeze(1))
    negative_logit = negative_logit.masked_fill(masked, -torch.inf)
    return torch.logaddexp(positive_logit, negative_logit.logsumexp(dim=1)) - positive_logit


def streamed_sampled_softmax_loss(
    query: Tensor, positives: Positives, candidates: Candidates, inverse_temperature: Tensor
) -> Tensor:
    """The fast twin of ``sampled_softmax_loss``, same signature; always in FP32, whatever autocast says.

    In BF16 a logit of λ = 100 would be off by up to 0.4.
    """
    with torch.autocast(query.device.type, enabled=False):
        scaled = inverse_temperature * query.float()
        positive_logit = (scaled * positives.item.float()).sum(-1) - positives.log_q
        log_negatives = _LogSumOfNegatives.apply(
            scaled, candidates.item.float(), candidates.log_q, candidates.item_key, candidates.own,
            positives.item_key, positives.user,
        )  # fmt: skip
        return torch.logaddexp(positive_logit, log_negatives) - positive_logit


class _LogSumOfNegatives(torch.autograd.Function):
    """log Σ exp(logit) over each query's negatives. The backward pass computes a block's logits again: a product of
    two thin matrices costs less than writing and reading all of them."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, item: Tensor, log_q: Tensor, item_key: Tensor, own: Tensor,
                positive_key: Tensor, user: Tensor) -> Tensor:  # fmt: skip
        block = max(1, LOGITS_AT_ONCE // len(item))
        result = query.new_empty(len(query))
        for start in range(0, len(query), block):
            rows = slice(start, start + block)
            logit = _masked_logits(query[rows], item, log_q, item_key, own[user[rows]], positive_key[rows])
            result[rows] = logit.logsumexp(dim=1)
        ctx.save_for_backward(query, item, log_q, item_key, own, positive_key, user, result)
        ctx.block = block
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        query, item, log_q, item_key, own, positive_key, user, result = ctx.saved_tensors
        (grad,) = grads
        query_grad, item_grad = torch.empty_like(query), torch.zeros_like(item)
        with torch.autocast(query.device.type, enabled=False):  # the backward pass may be called under it
            for start in range(0, len(query), ctx.block):
                rows = slice(start, start + ctx.block)
                logit = _masked_logits(query[rows], item, log_q, item_key, own[user[rows]], positive_key[rows])
                # Where every candidate is masked the sum is empty, −∞, and so is its gradient: nothing.
                level = result[rows].nan_to_num(neginf=0.0).unsqueeze(1)
                weight = logit.sub_(level).exp_().mul_(grad[rows].unsqueeze(1))
                torch.mm(weight, item, out=query_grad[rows])
                item_grad.addmm_(weight.T, query[rows])
        return query_grad, item_grad, None, None, None, None, None


def _masked_logits(
    query: Tensor, item: Tensor, log_q: Tensor, item_key: Tensor, own: Tensor, positive_key: Tensor
) -> Tensor:
    """Logits ``[block, C]`` with −∞ where the candidate is no negative of the query."""
    masked = torch.eq(item_key, positive_key.unsqueeze(1)).logical_or_(own)
    return torch.addmm(-log_q, query, item.T).masked_fill_(masked, -torch.inf)


def pool_log_q(stream_probability: Tensor, *, in_batch: int, random: int, catalogue_size: int) -> Tensor:
    """Log probability of items in a pool of ``in_batch`` targets and ``random`` uniform items, float ``[n]``.

    The pool is a mixture; an item drawn both ways is corrected by the probability of either (mixed negative sampling).
    """
    return torch.log((in_batch * stream_probability + random / catalogue_size) / (in_batch + random))


def members_of_own_history(user_item_key: Tensor, user_is_positive: Tensor, candidate_key: Tensor) -> Tensor:
    """Which candidates each user has among their own positives: bool ``[B, C]``.

    user_item_key int64 ``[B, T]``, user_is_positive bool ``[B, T]``. Sorted look-up: O((C + B·T)·log C), no B×T×C.
    """
    B, _ = user_item_key.shape
    distinct, column_of = candidate_key.unique(return_inverse=True)
    position = torch.searchsorted(distinct, user_item_key).clamp(max=len(distinct) - 1)
    found = user_is_positive & (distinct[position] == user_item_key)
    member = torch.zeros(B, len(distinct) + 1, dtype=torch.bool, device=candidate_key.device)
    member.scatter_(1, torch.where(found, position, len(distinct)), True)  # misses land in a column of their own
    return member[:, :-1][:, column_of]
