"""Sampled softmax with sampling correction and masks (eq. 2).

A query may have several targets; its negatives are the same for all of them. ``sampled_softmax_loss`` is the
definition; ``streamed_sampled_softmax_loss`` gives the same losses and gradients block by block, without ever holding
the logits of all queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LOGITS_AT_ONCE = {"cpu": 1 << 18, "accelerator": 1 << 26}
"""Logits of one block on a CPU, and on any accelerator. 1 MiB stays in the cache of a core while it is masked,
exponentiated and multiplied; an accelerator wants blocks that fill it, and 256 MiB are little of its memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queries:
    """n conditioned hidden states in item space, and whose they are."""

    vector: Tensor  # float [n, D]
    row: Tensor  # int64 [n], of ``Candidates.excluded``


@dataclass(frozen=True, slots=True, kw_only=True)
class Positives:
    """m targets and the query that has to find each."""

    item: Tensor  # float [m, D]
    log_q: Tensor  # float [m]
    query: Tensor  # int64 [m]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The C items that all queries of a step share as negatives: in-batch targets, then random ones, with repeats.

    ``log_q`` is the log probability that a draw of this pool is this item. ``excluded`` says which of them are no
    negatives: those among a user's own positives, a query's own targets with them.
    """

    item: Tensor  # float [C, D]
    log_q: Tensor  # float [C]
    excluded: Tensor  # bool [rows, C]


def sampled_softmax_loss(
    queries: Queries, positives: Positives, candidates: Candidates, inverse_temperature: Tensor
) -> Tensor:
    """Cross-entropy of each positive against its query's negatives: float ``[m]``.

    Logits are s(z, i) = λ·⟨z, e_i⟩ − log Q(i).
    """
    target_logit = inverse_temperature * (queries.vector[positives.query] * positives.item).sum(-1) - positives.log_q
    logit = inverse_temperature * (queries.vector @ candidates.item.T) - candidates.log_q
    log_negatives = logit.masked_fill(candidates.excluded[queries.row], -torch.inf).logsumexp(dim=1)
    return torch.logaddexp(target_logit, log_negatives[positives.query]) - target_logit


def streamed_sampled_softmax_loss(
    queries: Queries, positives: Positives, candidates: Candidates, inverse_temperature: Tensor
) -> Tensor:
    """The fast twin of ``sampled_softmax_loss``, same signature; always in FP32, whatever autocast says.

    In BF16 a logit of λ = 100 would be off by up to 0.4.
    """
    with torch.autocast(queries.vector.device.type, enabled=False):
        scaled = inverse_temperature * queries.vector.float()
        target_logit = (scaled[positives.query] * positives.item.float()).sum(-1) - positives.log_q
        log_negatives = _LogSumOfNegatives.apply(
            scaled, candidates.item.float(), candidates.log_q, candidates.excluded, queries.row
        )
        return torch.logaddexp(target_logit, log_negatives[positives.query]) - target_logit


class _LogSumOfNegatives(torch.autograd.Function):
    """log Σ exp(logit) over each query's negatives. The backward pass computes a block's logits again: a product of
    two thin matrices costs less than writing and reading all of them."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, item: Tensor, log_q: Tensor, excluded: Tensor, row: Tensor) -> Tensor:
        at_once = LOGITS_AT_ONCE["cpu" if query.device.type == "cpu" else "accelerator"]
        block = max(1, at_once // len(item))
        result = query.new_empty(len(query))
        for start in range(0, len(query), block):
            part = slice(start, start + block)
            result[part] = _masked_logits(query[part], item, log_q, excluded[row[part]]).logsumexp(dim=1)
        ctx.save_for_backward(query, item, log_q, excluded, row, result)
        ctx.block = block
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        query, item, log_q, excluded, row, result = ctx.saved_tensors
        (grad,) = grads
        query_grad, item_grad = torch.empty_like(query), torch.zeros_like(item)
        with torch.autocast(query.device.type, enabled=False):  # the backward pass may be called under it
            for start in range(0, len(query), ctx.block):
                part = slice(start, start + ctx.block)
                logit = _masked_logits(query[part], item, log_q, excluded[row[part]])
                # Where every candidate is excluded the sum is empty, −∞, and so is its gradient: nothing.
                level = result[part].nan_to_num(neginf=0.0).unsqueeze(1)
                weight = logit.sub_(level).exp_().mul_(grad[part].unsqueeze(1))
                torch.mm(weight, item, out=query_grad[part])
                item_grad.addmm_(weight.T, query[part])
        return query_grad, item_grad, None, None, None


def _masked_logits(query: Tensor, item: Tensor, log_q: Tensor, excluded: Tensor) -> Tensor:
    """Logits ``[block, C]`` with −∞ where the candidate is no negative of the query."""
    return torch.addmm(-log_q, query, item.T).masked_fill_(excluded, -torch.inf)


def pool_log_q(stream_probability: Tensor, *, in_batch: int, random: int, catalogue_size: int) -> Tensor:
    """Log probability of items in a pool of ``in_batch`` targets and ``random`` uniform items, float ``[n]``.

    The pool is a mixture; an item drawn both ways is corrected by the probability of either (mixed negative sampling).
    """
    return torch.log((in_batch * stream_probability + random / catalogue_size) / (in_batch + random))


def members(row: Tensor, item_key: Tensor, num_rows: int, candidate_key: Tensor) -> Tensor:
    """Which candidates each row has among its items: bool ``[num_rows, C]``.

    The items are given as pairs of a row and a key, int64 ``[n]`` each. Sorted look-up: O((C + n)·log C), no n × C.
    """
    distinct, column_of = candidate_key.unique(return_inverse=True)
    position = torch.searchsorted(distinct, item_key).clamp(max=len(distinct) - 1)
    found = distinct[position] == item_key
    member = torch.zeros(num_rows, len(distinct), dtype=torch.bool, device=candidate_key.device)
    member[row[found], position[found]] = True
    return member[:, column_of]
