"""The objective's loss on users held out for validation.

Users and random draws are the same after every epoch, so that epochs can be compared. The sketch does not count these
users, and dropout is off. In-batch negatives come from the held-out batch itself.
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
    """The mean of the batches' losses, weighted by their users; None without users.

    This seeds torch's generator, so the caller must seed it again before its next batch.
    """
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
