"""Time features (PinRec, model): sinusoids of the absolute time, and the logarithm of the time since the previous
action."""

from __future__ import annotations

import math

import torch
from torch import Tensor

HOUR, DAY, WEEK, YEAR = 3600, 86_400, 604_800, 31_557_600
PERIODS = (HOUR, DAY, WEEK, YEAR // 4, YEAR, 16 * YEAR)
"""In seconds. The last one is an addition to the paper: popularity changes over the years of a long log, and shorter
periods do not distinguish the years."""
WIDTH = 2 * len(PERIODS) + 1


def time_features(timestamp: Tensor, previous_timestamp: Tensor) -> Tensor:
    """Times of actions and of the actions before them, int64 seconds ``[...]`` → float32 ``[..., WIDTH]``.

    The phase is computed in integers, because a float32 Unix time is off by up to a minute. The gap to the previous
    action is scaled so that a year is 1. Longer gaps count as a year, so that a history that ended long ago stays
    within the range that was seen in training.
    """
    # Filled in on the device: a tensor made of Python's numbers is a copy from the host, which an accelerator waits for
    # and a CUDA graph cannot contain.
    periods = torch.cat([torch.full((1,), period, device=timestamp.device) for period in PERIODS])
    phase = (timestamp.unsqueeze(-1) % periods).float() / periods * (2 * math.pi)
    gap = (timestamp - previous_timestamp).clamp(0, YEAR).float()
    log_gap = torch.log1p(gap) / math.log1p(YEAR)
    return torch.cat([phase.sin(), phase.cos(), log_gap.unsqueeze(-1)], dim=-1)


def previous_timestamps(timestamp: Tensor) -> Tensor:
    """int64 ``[B, T]`` → the timestamp before each position. For the first position it is its own, a gap of 0."""
    return torch.cat([timestamp[:, :1], timestamp[:, :-1]], dim=1)
