"""Sampled softmax with log Q correction and masked negatives (eq. 2).

A query may have several targets, which all share its negatives. ``sampled_softmax_loss`` is the definition.
``streamed_sampled_softmax_loss`` gives the same losses and gradients, but goes through the queries block by block and
never holds all logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LOGITS_AT_ONCE = {"cpu": 1 << 18, "accelerator": 1 << 26}
"""Logits of one block, on a CPU and on any accelerator. On a CPU 1 MiB stays in a core's cache while the block is
masked, exponentiated and multiplied. An accelerator needs larger blocks to be busy, and has memory for 256 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queries:
    """n conditioned hidden states in item space."""

    vector: Tensor  # float [n, D]
    row: Tensor  # int64 [n], the query's row of ``Candidates.excluded``


@dataclass(frozen=True, slots=True, kw_only=True)
class Positives:
    """m targets, each with the query that predicts it."""

    item: Tensor  # float [m, D]
    log_q: Tensor  # float [m]
    query: Tensor  # int64 [m]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The C items that all queries of a step share as negatives: in-batch targets, then random items, with repeats.

    ``log_q`` is the log probability that one draw of this pool is the item. ``excluded`` marks the items that must not
    be negatives of a query: its own targets, and usually everything else that its user acted on.
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
    """The fast twin of ``sampled_softmax_loss``, with the same signature. It computes in FP32, even under autocast.

    In BF16 a logit of 100, which λ = 100 allows, would be off by up to 0.4.
    """
    with torch.autocast(queries.vector.device.type, enabled=False):
        scaled = inverse_temperature * queries.vector.float()
        target_logit = (scaled[positives.query] * positives.item.float()).sum(-1) - positives.log_q
        log_negatives = _LogSumOfNegatives.apply(
            scaled, candidates.item.float(), candidates.log_q, candidates.excluded, queries.row
        )
        return torch.logaddexp(target_logit, log_negatives[positives.query]) - target_logit


class _LogSumOfNegatives(torch.autograd.Function):
    """log Σ exp(logit) over each query's negatives.

    The backward pass computes the logits of each block again: D is small, so the product costs less than writing all
    logits to memory and reading them back.
    """

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
        with torch.autocast(query.device.type, enabled=False):  # the caller may run the backward pass under autocast
            for start in range(0, len(query), ctx.block):
                part = slice(start, start + ctx.block)
                logit = _masked_logits(query[part], item, log_q, excluded[row[part]])
                # Where every candidate is excluded, the log of the empty sum is −∞ and its gradient is 0.
                level = result[part].nan_to_num(neginf=0.0).unsqueeze(1)
                weight = logit.sub_(level).exp_().mul_(grad[part].unsqueeze(1))
                torch.mm(weight, item, out=query_grad[part])
                item_grad.addmm_(weight.T, query[part])
        return query_grad, item_grad, None, None, None


def _masked_logits(query: Tensor, item: Tensor, log_q: Tensor, excluded: Tensor) -> Tensor:
    """Logits ``[block, C]``, with −∞ where a candidate is not a negative of the query."""
    return torch.addmm(-log_q, query, item.T).masked_fill_(excluded, -torch.inf)


def pool_log_q(stream_probability: Tensor, *, in_batch: int, random: int, catalogue_size: int) -> Tensor:
    """log Q: the log probability that one draw of the pool is the item, float ``[n]``.

    The pool is a mixture of ``in_batch`` targets, drawn by their share of the stream, and ``random`` items, drawn
    uniformly from the catalogue (mixed negative sampling).
    """
    return torch.log((in_batch * stream_probability + random / catalogue_size) / (in_batch + random))


def members(row: Tensor, item_key: Tensor, num_rows: int, candidate_key: Tensor) -> Tensor:
    """Which of the candidates are among the items of each row: bool ``[num_rows, C]``.

    The items are given as n pairs of a row and a key, int64 ``[n]`` each. Candidates are sorted and looked up in
    O((C + n)·log C), so that no n × C comparison is needed.
    """
    distinct, column_of = candidate_key.unique(return_inverse=True)
    position = torch.searchsorted(distinct, item_key).clamp(max=len(distinct) - 1)
    found = distinct[position] == item_key
    member = torch.zeros(num_rows, len(distinct), dtype=torch.bool, device=candidate_key.device)
    member[row[found], position[found]] = True
    return member[:, column_of]
