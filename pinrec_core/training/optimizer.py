"""Dense and sparse Adam, their parameter groups, and the schedule of the learning rate.

This module knows nothing of batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pinrec_core.config.sections import TrainingConfig
from pinrec_core.objective.objective import Objective


def new_optimizers(objective: Objective, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """AdamW for the network, and for the ID tables an Adam with their own learning rate.

    The latter is a SparseAdam, which changes only the rows that the batch looked up. The exception is a run on several
    GPUs with a copy of the tables in each (``shard_id_tables`` off): NCCL cannot sum sparse gradients, so the tables'
    gradients are dense, and Adam's momentum changes every row in every step. Weight decay applies to the network's
    matrices alone. An ``id_learning_rate`` of 0 freezes the tables: they get neither gradients nor optimiser state.
    """
    tables = objective.model.id_embedding.tables
    tables.weight.requires_grad_(config.id_learning_rate > 0 and tables.weight.numel() > 0)
    rest = network_parameters(objective)
    groups = [
        _group([p for p in rest if p.ndim > 1], config.learning_rate) | {"weight_decay": config.weight_decay},
        _group([p for p in rest if p.ndim <= 1], config.learning_rate) | {"weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, fused=True)]
    if tables.weight.requires_grad:
        group = [_group([tables.weight], config.id_learning_rate)]
        optimizers.append(torch.optim.SparseAdam(group) if tables.sparse else torch.optim.Adam(group))
    return optimizers


def network_parameters(objective: Objective) -> list[nn.Parameter]:
    """All parameters of the objective except the ID tables."""
    tables = objective.model.id_embedding.tables.weight
    return [parameter for parameter in objective.parameters() if parameter is not tables]


def _group(parameters: Sequence[Tensor], learning_rate: float) -> dict[str, Any]:
    return {"params": parameters, "lr": learning_rate, "peak_lr": learning_rate}


def schedule(optimizers: Sequence[torch.optim.Optimizer], share: float, warmup_share: float) -> None:
    """Set the learning rate of every group for the point ``share`` in [0, 1] of the run."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = group["peak_lr"] * learning_rate_factor(share, warmup_share)


def learning_rate_factor(share: float, warmup_share: float) -> float:
    """The share of the peak rate: a linear warm-up, then a cosine down to a tenth."""
    if share < warmup_share:
        return max(share / warmup_share, 0.01)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (share - warmup_share) / (1 - warmup_share)))
