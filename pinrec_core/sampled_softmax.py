"""Sampled softmax with sampling correction and masks (eq. 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The C negatives that every query of a step shares: in-batch targets, then random items. Repeats are allowed.

    ``log_q`` is the log probability that a draw of this pool is this item.
    """

    item: Tensor  # float [C, D]
    item_key: Tensor  # int64 [C]
    log_q: Tensor  # float [C]


def sampled_softmax_loss(
    query: Tensor,
    positive: Tensor,
    positive_key: Tensor,
    positive_log_q: Tensor,
    candidates: Candidates,
    own_positive: Tensor,
    inverse_temperature: Tensor,
) -> Tensor:
    """Cross-entropy of each positive against the candidates, float ``[n]``.

    Logits are s(z, i) = λ·⟨z, e_i⟩ − log Q(i). A candidate is masked where it is the positive itself (equal key) or,
    by ``own_positive`` bool ``[n, C]``, another positive of the same user: neither is a negative.

    Shapes: query and positive ``[n, D]``, positive_key int64 ``[n]``, positive_log_q ``[n]``.
    """
    positive_logit = inverse_temperature * (query * positive).sum(-1) - positive_log_q
    negative_logit = inverse_temperature * (query @ candidates.item.T) - candidates.log_q
    masked = own_positive | (candidates.item_key == positive_key.unsqueeze(1))
    negative_logit = negative_logit.masked_fill(masked, -torch.inf)
    return torch.logaddexp(positive_logit, negative_logit.logsumexp(dim=1)) - positive_logit


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
