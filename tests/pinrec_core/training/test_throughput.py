"""FLOPs of a training step, by hand and against torch's own counter; rates of recent steps; the measured ceiling."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pinrec_core.config.presets import preset
from pinrec_core.config.sections import ObjectiveConfig, Precision, Variant
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.model.variants import trainable_model
from pinrec_core.objective.objective import Objective, Scored
from pinrec_core.representations import time_features
from pinrec_core.training import throughput
from pinrec_core.training.batches import training_batch
from pinrec_core.training.throughput import Throughput, measured_peak, training_flops
from tests.pinrec_core.builders import F, random_history, tiny_config


def test_flops_by_hand():
    """Two histories of 3 and 1 interactions: 4 interactions, 6 tokens, 10 + 3 attended pairs, 4 queries against
    4 + 5 candidates."""
    config = tiny_config(Variant.UC, layers=3, hidden_width=8, item_width=4, id_width=2, embedder_layers=3, heads=2)
    pin = (F + 2) * 8 + 8 * 8 + 8 * 4
    query = F * 8 + 8 * 8 + 8 * 4
    embedders = 4 * (pin + query) + 5 * pin
    tokens = 4 * 4 * 8 + 6 * time_features.WIDTH * 8
    decoder = 3 * (6 * 12 * 8 * 8 + 13 * 2 * 8)
    queries = 4 * (8 * 16 + 16 * 4) + 4 * 9 * 4
    scored = Scored(queries=4, in_batch=4, random=5)
    assert training_flops(config, [3, 1], scored) == 6 * (embedders + tokens + decoder + queries)


def test_a_model_of_tables_costs_what_it_scores():
    config = tiny_config(Variant.DOT_PRODUCT, id_width=16)
    scored = Scored(queries=5, in_batch=6, random=4)
    assert training_flops(config, [50], scored) == training_flops(config, [90], scored) == 6 * 5 * 10 * 16


@pytest.mark.parametrize(
    ("name", "variant", "flops"),
    [
        ("tiny", Variant.MT_OC, 21_456_768.0),
        ("tiny", Variant.SASREC, 14_775_168.0),
        ("tiny", Variant.DOT_PRODUCT, 17_280.0),
        ("small", Variant.OC, 131_755_776.0),
        ("base", Variant.MT_OC, 12_516_363_264.0),
        ("base", Variant.SASREC, 12_281_748_480.0),
    ],
)
def test_flops_of_the_presets_stay_what_they_were(name, variant, flops):
    """Utilisation is compared between versions, so a step must be counted the same in all of them."""
    config = preset(name).model_for(variant=variant, num_outcomes=3, num_surfaces=4, feature_width=256)
    assert training_flops(config, [3, 1, 17], Scored(queries=5, in_batch=7, random=11)) == flops


@pytest.mark.parametrize(
    ("variant", "length", "max_offset"),
    [
        (Variant.OC, 64, 1),
        (Variant.MT_OC, 64, 1),
        (Variant.SASREC, 64, 1),
        (Variant.MT_OC, 8, 8),  # windows of several offsets share items, and most hold fewer outcomes than they could
    ],
)
def test_flops_agree_with_those_that_torch_counts(variant, length, max_offset, dataset):
    """torch counts what really runs: whole attention matrices, the logits again in the backward pass, no gradients of
    inputs that need none. At the size of a preset the matrices dominate, and the counts agree within a tenth."""
    model = {
        **preset("small").model,
        "item_width": 64,
        "id_width": 64,
        "id_rows": 256,
        "dropout": 0.0,
        "max_offset": max_offset,
    }
    config = tiny_config(variant, **model)
    objective = ObjectiveConfig(in_batch_negatives=128, random_negatives=128, windows_per_step=256, window=max_offset)
    histories = [random_history(length, seed, queries=False) for seed in range(8)]
    catalogue = ItemCatalogue.open(dataset)
    trained = Objective(trainable_model(config), objective, catalogue_size=len(catalogue))
    batch = training_batch(histories, catalogue, objective, np.random.default_rng(0))
    with FlopCounterMode(display=False) as counter:
        trained(batch).backward()
    assert counter.get_total_flops() == pytest.approx(training_flops(config, [length] * 8, trained.scored), rel=0.1)


def test_rates_are_those_of_the_window(monkeypatch):
    monkeypatch.setattr(throughput, "WINDOW_SECONDS", 10.0)
    rates = Throughput()
    assert rates.interactions_per_second == 0.0
    rates.add(8.0, 8000, 8e6)
    assert (rates.interactions_per_second, rates.flops_per_second) == (1000.0, 1e6)
    for _ in range(5):
        rates.add(2.0, 200, 4e6)
    assert rates.interactions_per_second == pytest.approx(100.0)  # only slow steps are left in the window
    assert rates.flops_per_second == pytest.approx(2e6)


def test_the_ceiling_is_above_what_small_products_reach():
    assert measured_peak(torch.device("cpu"), Precision.FP32) > 1e8


def test_the_ceiling_is_the_fastest_product(monkeypatch):
    """Other programs slow most products down. The ceiling is the rate of a product that is not disturbed."""
    now = 0.0
    taken = itertools.cycle([0.004, 0.004, 0.001])

    def multiply(*_: torch.Tensor) -> None:
        nonlocal now
        now += next(taken)

    monkeypatch.setattr(throughput, "_multiply", multiply)
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: now))
    assert measured_peak(torch.device("cpu"), Precision.FP32) == pytest.approx(2 * 1024**3 / 0.001)
