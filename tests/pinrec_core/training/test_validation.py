"""The loss on held-out users can be compared between epochs, and taking it does not change the training."""

from __future__ import annotations

import copy

import pytest
import torch

from pinrec_core.config.sections import ObjectiveConfig, Precision
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import SEQUENCES
from pinrec_core.objective.objective import Objective
from pinrec_core.training.batches import held_out_histories
from pinrec_core.training.processes import Processes
from pinrec_core.training.validation import held_out_loss
from tests.pinrec_core.builders import tiny_model
from tests.pinrec_core.training.small_training import SMALL, assert_equal_weights, train_small, weights


def test_it_repeats_itself_and_leaves_the_objective_as_it_was(dataset):
    catalogue = ItemCatalogue.open(dataset)
    model = tiny_model(dropout=0.5)
    objective = Objective(model, ObjectiveConfig(random_negatives=8, in_batch_negatives=8), catalogue_size=120).train()
    objective.sketch.update(torch.arange(1000, 1100))
    before = copy.deepcopy(objective.state_dict())
    users = held_out_histories(dataset / SEQUENCES, model.config, SMALL)
    fabric = Processes.launch(torch.device("cpu"), Precision.FP32).fabric
    first, second = (held_out_loss(objective, users, catalogue, SMALL, fabric) for _ in range(2))
    assert first is not None
    assert first == second > 0
    assert objective.training
    assert_equal_weights(objective.state_dict(), before)
    assert held_out_loss(objective, [], catalogue, SMALL, fabric) is None


def test_training_is_the_same_with_and_without_it(dataset, tmp_path):
    with_it = train_small(dataset, tmp_path / "with")
    without = train_small(dataset, tmp_path / "without", training={"validation_users": 0})
    assert_equal_weights(weights(tmp_path / "with"), weights(tmp_path / "without"))
    assert with_it.metrics["final_loss"] == without.metrics["final_loss"]
    assert all(epoch["held_out_loss"] > 0 for epoch in with_it.metrics["epochs"])
    assert [epoch["held_out_loss"] for epoch in without.metrics["epochs"]] == [None, None]


def test_what_is_learnt_lowers_it(dataset, tmp_path):
    run = train_small(dataset, tmp_path, training={"epochs": 8, "validation_users": 40})
    losses = [epoch["held_out_loss"] for epoch in run.metrics["epochs"]]
    assert losses[-1] < losses[0] - 0.05
    assert losses[0] == pytest.approx(losses[-1], rel=1.0)
