"""Which (position, target) pairs a training step scores: next item (eq. 3), windows (eq. 5), or all future actions.

Hidden state t of a user, at offset δ ≥ 1, predicts item t + δ − 1 (counting from 0) or, where offsets are times, the
first one that is so many seconds ahead. This module knows positions,
offsets and times. It knows nothing of embeddings or losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pinrec_core.representations.time_features import DAY, previous_timestamps


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """m pairs of a hidden state and an item that it predicts. The pairs of one window are combined to one loss."""

    user: Tensor  # int64 [m], the row of the batch
    position: Tensor  # int64 [m], of the hidden state, which is the number of items it has seen
    target: Tensor  # int64 [m], the item's column in the batch
    offset: Tensor  # int64 [m], the δ that conditions the head
    window: Tensor  # int64 [m], the number of the window, below num_windows
    num_windows: int


def draw_windows(
    is_target: Tensor, first: Tensor, *, window: int, next_window: int, windows: int, next_share: float
) -> Targets:
    """Draw at most ``windows`` windows of items from those of all positions and all offsets (eq. 5).

    ``is_target`` bool ``[B, T]``; ``first`` int64 ``[B, T, Δmax]``, where the windows of a position begin. A window has
    W = ``window`` items, at δ = 1 ``next_window``. All targets inside a drawn window are predicted. Windows without a
    target, such as those beyond the end of a history, are never drawn. Of those drawn the share ``next_share`` has
    δ = 1, as far as there are as many of both kinds. With Δmax = ``next_window`` = 1 this is next-item prediction
    (eq. 3).
    """
    B, T = is_target.shape
    device = is_target.device
    seen = _targets_before(is_target)
    length = torch.full((first.shape[2],), window, device=device)
    length[0] = next_window
    last = (first + length).clamp(max=T)

    def seen_at(place: Tensor) -> Tensor:
        return seen.gather(1, place.view(B, -1)).view(place.shape)

    holds_target = seen_at(last) > seen_at(first)
    of_next = holds_target[:, :, 0].nonzero(as_tuple=True)
    least = min(math.ceil(next_share * windows), len(of_next[0]))
    later = _sample(holds_target[:, :, 1:].nonzero(as_tuple=True), windows - least)
    user, position = _sample(of_next, windows - len(later[0]))
    offset = torch.cat([torch.zeros_like(user), later[2] + 1])
    user, position = torch.cat([user, later[0]]), torch.cat([position, later[1]])

    slots = torch.arange(max(window, next_window), device=device)
    target = first[user, position, offset].unsqueeze(1) + slots  # [n, W]
    inside = (target < T) & (slots < length[offset].unsqueeze(1))
    valid = inside & is_target[user.unsqueeze(1), target.clamp(max=T - 1)]
    row, slot = valid.nonzero(as_tuple=True)
    return Targets(
        user=user[row], position=position[row], target=target[row, slot], offset=offset[row] + 1, window=row,
        num_windows=len(user),
    )  # fmt: skip


def windows_by_position(is_target: Tensor, max_offset: int) -> Tensor:
    """Where the window of each position and offset begins, if δ counts items: int64 ``[B, T, Δmax]``, T beyond."""
    B, T = is_target.shape
    device = is_target.device
    first = torch.arange(T, device=device).unsqueeze(1) + torch.arange(max_offset, device=device)
    return first.clamp(max=T).expand(B, T, max_offset)


def windows_by_time(timestamp: Tensor, length: Tensor, offset_seconds: Sequence[int]) -> Tensor:
    """The same where an offset is a time: a window begins with the first item at least so many seconds after the last
    one that its position has seen, and no earlier than the next item.

    ``timestamp`` int64 ``[B, T]``, ascending over the ``length`` int64 ``[B]`` real interactions. The start token has
    seen nothing; its clock starts at the first interaction.
    """
    B, T = timestamp.shape
    device = timestamp.device
    ahead = torch.tensor(offset_seconds, device=device)
    ascending = timestamp.cummax(dim=1).values  # padding has time 0, and ``searchsorted`` needs ascending rows
    due = previous_timestamps(timestamp).unsqueeze(2) + ahead  # [B, T, Δmax]
    found = torch.searchsorted(ascending, due.view(B, -1)).view(due.shape)
    next_item = torch.arange(T, device=device).unsqueeze(1)
    return torch.maximum(found, next_item).where(found < length.view(B, 1, 1), T)


def draw_all_actions(is_target: Tensor, timestamp: Tensor, *, horizon_days: float, windows: int) -> Targets:
    """Draw at most ``windows`` positions, and for each a target of the days after it (PinnerFormer, dense all-action).

    ``is_target`` bool ``[B, T]``; ``timestamp`` int64 ``[B, T]``, ascending over the real interactions. The horizon
    starts at the last interaction that the position has seen, and for the start token at the first interaction. In a
    log without times, whose timestamps are positions, the horizon covers the whole rest of a history.
    """
    B, T = is_target.shape
    seen = _targets_before(is_target)
    # Padding has time 0. ``searchsorted`` needs ascending rows, so padding takes the time of the last interaction.
    now = previous_timestamps(timestamp)
    ascending = timestamp.cummax(dim=1).values
    end = torch.searchsorted(ascending, now + int(horizon_days * DAY), right=True)  # [B, T]
    before, within = seen[:, :-1], seen.gather(1, end)
    user, position = _sample((within > before).nonzero(as_tuple=True), windows)
    before, choices = before[user, position], (within - before)[user, position]
    # The r-th target after the position is where the running count of targets first reaches `before` + r.
    rank = before + 1 + (torch.rand(len(user), device=user.device) * choices).long().clamp(max=choices - 1)
    target = torch.searchsorted(seen[:, 1:][user].contiguous(), rank.unsqueeze(1)).squeeze(1)
    return Targets(
        user=user, position=position, target=target, offset=torch.ones_like(user),
        window=torch.arange(len(user), device=user.device), num_windows=len(user),
    )  # fmt: skip


def share_queries(targets: Targets, condition: Tensor, num_conditions: int) -> tuple[Tensor, Tensor]:
    """Let the targets of a window that have the same ``condition`` share one query.

    ``condition`` is int64 ``[m]``, below ``num_conditions``. → one target of each of the n queries, int64 ``[n]``, and
    the query of each target, int64 ``[m]``.
    """
    distinct, query = torch.unique(targets.window * num_conditions + condition, return_inverse=True)
    first = torch.empty_like(distinct).scatter_(0, query, torch.arange(len(query), device=query.device))
    return first, query


def _targets_before(is_target: Tensor) -> Tensor:
    """The number of targets before each position, and last that of the whole row: int64 ``[B, T + 1]``."""
    return F.pad(is_target.cumsum(1), (1, 0))


def _sample(columns: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    """Draw at most ``count`` of the n rows that these columns ``[n]`` make up, without replacement."""
    n = len(columns[0])
    if n <= count:
        return columns
    keep = torch.randperm(n, device=columns[0].device)[:count]
    return tuple(column[keep] for column in columns)
