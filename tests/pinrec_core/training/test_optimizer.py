"""Parameter groups of the optimisers, and the schedule of the learning rate."""

from __future__ import annotations

import pytest
import torch

from pinrec_core.config.sections import ObjectiveConfig, TrainingConfig
from pinrec_core.objective.objective import Objective
from pinrec_core.training.optimizer import learning_rate_factor, new_optimizers, schedule
from tests.pinrec_core.builders import tiny_model


def objective() -> Objective:
    return Objective(tiny_model(), ObjectiveConfig(), catalogue_size=10)


def test_learning_rate_warms_up_and_ends_at_a_tenth():
    assert learning_rate_factor(0.025, 0.05) == pytest.approx(0.5)
    assert learning_rate_factor(0.05, 0.05) == pytest.approx(1.0)
    assert learning_rate_factor(1.0, 0.05) == pytest.approx(0.1)


def test_every_parameter_is_in_one_group_and_tables_have_their_own_rate():
    trained = objective()
    optimizers = new_optimizers(trained, TrainingConfig(learning_rate=0.1, id_learning_rate=0.2, weight_decay=0.3))
    schedule(optimizers, 0.025, 0.05)  # in the middle of the warm-up
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    found = {p: (group["lr"], group.get("weight_decay", 0.0)) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(list(trained.parameters()))
    for name, parameter in trained.named_parameters():
        expected = (0.1, 0.0) if name.endswith("tables.weight") else (0.05, 0.3 if parameter.ndim > 1 else 0.0)
        assert found[parameter] == pytest.approx(expected), name


def test_a_rate_of_0_freezes_the_tables():
    trained = objective()
    optimizers = new_optimizers(trained, TrainingConfig(id_learning_rate=0.0))
    tables = trained.model.id_embedding.tables.weight
    assert not tables.requires_grad
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    assert all(parameter is not tables for group in groups for parameter in group["params"])
    assert torch.is_tensor(tables)
