"""AdamW with its parameter groups, and the schedule of the learning rate. Knows nothing of batches."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from pinrec_core.config import TrainingConfig
from pinrec_core.objective import Objective


def new_optimizer(objective: Objective, config: TrainingConfig) -> torch.optim.AdamW:
    """ID tables learn at their own rate and without decay (most rows see no gradient in a step); so do vectors.

    A rate of 0 freezes the tables: they get no gradient and no state.
    """
    tables = objective.model.id_embedding.tables
    tables.requires_grad_(config.id_learning_rate > 0 and tables.numel() > 0)
    rest = [parameter for parameter in objective.parameters() if parameter is not tables]
    groups = [
        _group([p for p in rest if p.ndim > 1], config.learning_rate, config.weight_decay),
        _group([p for p in rest if p.ndim <= 1], config.learning_rate),
    ]
    if tables.requires_grad:
        groups.append(_group([tables], config.id_learning_rate))
    return torch.optim.AdamW(groups, fused=True)


def _group(parameters: list[nn.Parameter], learning_rate: float, weight_decay: float = 0.0) -> dict[str, Any]:
    return {"params": parameters, "lr": learning_rate, "peak_lr": learning_rate, "weight_decay": weight_decay}


def schedule(optimizer: torch.optim.Optimizer, share: float, warmup_share: float) -> None:
    """Set every group's learning rate for the point ``share`` in [0, 1] of the run."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * learning_rate_factor(share, warmup_share)


def learning_rate_factor(share: float, warmup_share: float) -> float:
    """Linear warm-up, then a cosine to a tenth of the peak."""
    if share < warmup_share:
        return max(share / warmup_share, 0.01)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (share - warmup_share) / (1 - warmup_share)))
