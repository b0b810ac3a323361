"""The objective's loss on held-out users: the same users and the same draws after every epoch, so that epochs compare.

The sketch counts nothing and dropout is off. In-batch negatives come from the held-out batch itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from pinrec_core.config.sections import TrainingConfig
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.history import History
from pinrec_core.objective.objective import Objective
from pinrec_core.training.batches import Draw, prepare

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@torch.no_grad()
def held_out_loss(
    objective: Objective, histories: Sequence[History], catalogue: ItemCatalogue, config: TrainingConfig, fabric: Fabric
) -> float | None:
    """Mean over users of their batch's loss; None without users. The caller seeds torch for its own next batch."""
    if not histories:
        return None
    total = 0.0
    objective.eval()
    for number, start in enumerate(range(0, len(histories), config.batch_users)):
        users = histories[start : start + config.batch_users]
        draw = Draw(histories=users, batch=number, share=(start + len(users)) / len(histories))
        prepared = prepare(draw, catalogue, objective.config, config.seed, number)
        torch.manual_seed(prepared.torch_seed)
        with fabric.autocast():
            total += objective(prepared.batch.to(fabric.device)).item() * len(users)
    objective.train()
    return total / len(histories)
