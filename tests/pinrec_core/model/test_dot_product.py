"""The dot-product model: the ID embedding of the last item predicts the next ones, and nothing else matters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pinrec_core.config.sections import Variant
from pinrec_core.errors import ConfigError
from pinrec_core.model.variants import generative_model, trainable_model
from tests.pinrec_core.builders import batch_of, random_history, tiny_config

CONFIG = tiny_config(Variant.DOT_PRODUCT, id_width=16)


def test_a_position_is_the_item_before_it_and_the_first_a_start():
    model = trainable_model(CONFIG).eval()
    batch = batch_of(model, [random_history(5, seed=1, queries=False), random_history(5, seed=2, queries=False)])
    hidden, item = model(batch)
    expected = F.normalize(batch.id_embedding, dim=-1)
    torch.testing.assert_close(item, expected)
    torch.testing.assert_close(hidden[:, 1:], expected)
    assert torch.equal(hidden[0, 0], hidden[1, 0])
    torch.testing.assert_close(hidden[0, 0].norm(), torch.tensor(1.0))
    assert torch.equal(model.head.conditioned(hidden, model.head.condition(torch.tensor(2), torch.tensor(7))), hidden)
    other = replace(batch, surface=batch.surface + 1, feature=-batch.feature, timestamp=batch.timestamp + 1)
    assert torch.equal(model(other)[0], hidden)


def test_a_query_leaves_the_item_before_it_the_last():
    model = trainable_model(CONFIG).eval()
    history = replace(random_history(4, seed=1, queries=False), item_type=np.array([1, 0, 1, 1], np.uint8))
    hidden, item = model(batch_of(model, [history]))
    start, first = hidden[0, 0], item[0, 1]
    torch.testing.assert_close(hidden[0], torch.stack([start, start, first, first, first]))


def test_its_weights_are_the_tables_and_a_start():
    names = {name for name, _ in trainable_model(CONFIG).named_parameters()}
    assert names == {"id_embedding.tables.weight", "start_token"}


def test_it_needs_tables_and_generates_nothing():
    with pytest.raises(ConfigError, match="id_width=0: expected ID tables to pre-train"):
        trainable_model(tiny_config(Variant.DOT_PRODUCT, id_width=0))
    with pytest.raises(ConfigError, match="expected a model that generates"):
        generative_model(CONFIG)
