"""Adam, dense and sparse, its parameter groups, and the schedule of the learning rate. Knows nothing of batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pinrec_core.config.sections import TrainingConfig
from pinrec_core.objective.objective import Objective


def new_optimizers(objective: Objective, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """AdamW for the network; for the ID tables an Adam that touches the rows of the batch alone, at their own rate.

    Several GPUs with a copy of the tables each (``shard_id_tables`` off) are the exception: NCCL sums no sparse
    gradients, so Adam moves every row in every step there, by its momentum. Vectors and tables do not decay. A rate of
    0 freezes the tables: they get no gradient and no state.
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
    """All but the ID tables."""
    tables = objective.model.id_embedding.tables.weight
    return [parameter for parameter in objective.parameters() if parameter is not tables]


def _group(parameters: Sequence[Tensor], learning_rate: float) -> dict[str, Any]:
    return {"params": parameters, "lr": learning_rate, "peak_lr": learning_rate}


def schedule(optimizers: Sequence[torch.optim.Optimizer], share: float, warmup_share: float) -> None:
    """Set every group's learning rate for the point ``share`` in [0, 1] of the run."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = group["peak_lr"] * learning_rate_factor(share, warmup_share)


def learning_rate_factor(share: float, warmup_share: float) -> float:
    """Linear warm-up, then a cosine to a tenth of the peak."""
    if share < warmup_share:
        return max(share / warmup_share, 0.01)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (share - warmup_share) / (1 - warmup_share)))
