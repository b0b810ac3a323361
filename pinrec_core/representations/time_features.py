"""Time as features (PinRec, model): sinusoids of absolute time, log-scaled time since the previous action."""

from __future__ import annotations

import math

import torch
from torch import Tensor

HOUR, DAY, WEEK, YEAR = 3600, 86_400, 604_800, 31_557_600
PERIODS = (HOUR, DAY, WEEK, YEAR // 4, YEAR, 16 * YEAR)
"""The last is ours: what was popular changes over the years of a long log, and no shorter period tells them apart."""
WIDTH = 2 * len(PERIODS) + 1


def time_features(timestamp: Tensor, previous_timestamp: Tensor) -> Tensor:
    """int64 seconds ``[...]`` and those of the preceding action → float32 ``[..., WIDTH]``.

    The phase is taken in integers: a float32 cannot hold a Unix time to the minute. The gap is scaled so that one
    year is 1, and capped there: a history that ended long ago must not leave the range seen in training.
    """
    periods = torch.tensor(PERIODS, device=timestamp.device)
    phase = (timestamp.unsqueeze(-1) % periods).float() / periods * (2 * math.pi)
    gap = (timestamp - previous_timestamp).clamp(0, YEAR).float()
    log_gap = torch.log1p(gap) / math.log1p(YEAR)
    return torch.cat([phase.sin(), phase.cos(), log_gap.unsqueeze(-1)], dim=-1)


def previous_timestamps(timestamp: Tensor) -> Tensor:
    """int64 ``[B, T]`` → the timestamp before each position; a first position precedes itself (gap 0)."""
    return torch.cat([timestamp[:, :1], timestamp[:, :-1]], dim=1)
