"""SASRec sees item ids and their order, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pinrec_core.config.sections import Variant
from pinrec_core.errors import ConfigError
from pinrec_core.model.variants import generative_model
from tests.pinrec_core.builders import batch_of, random_history, tiny_config


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return generative_model(tiny_config(Variant.SASREC, id_width=16)).eval()


def test_surface_time_content_and_outcome_change_nothing(model):
    batch = batch_of(model, [random_history(9, seed=1, queries=False)])
    other = replace(
        batch, surface=(batch.surface + 1) % 4, timestamp=batch.timestamp * 2, feature=-batch.feature,
        scale=2 * batch.scale,
    )  # fmt: skip
    for got, expected in zip(model(other), model(batch), strict=True):
        assert torch.equal(got, expected)
    condition = model.head.condition(torch.tensor([0, 1, 2]), torch.tensor([1, 1, 1]))
    assert not condition.any()


def test_other_items_and_another_order_change_the_answer(model):
    history = random_history(9, seed=1, queries=False)
    last = model(batch_of(model, [history]))[0][:, -1]
    for other in (history.take([1, 0, *range(2, 9)]), random_history(9, seed=2, queries=False)):
        assert not torch.allclose(model(batch_of(model, [other]))[0][:, -1], last, atol=1e-3)


def test_an_item_is_its_id_embedding_and_must_be_as_wide(model):
    batch = batch_of(model, [random_history(3, seed=1, queries=False)])
    item = model.represent_items(batch)
    torch.testing.assert_close(item, torch.nn.functional.normalize(batch.id_embedding, dim=-1))
    with pytest.raises(ConfigError, match="id_width=8: expected item_width=16"):
        generative_model(tiny_config(Variant.SASREC))
