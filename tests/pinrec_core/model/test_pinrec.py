"""The PinRec model: what must change its answers, and what must not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pinrec_core.config.sections import Variant
from pinrec_core.history import History, ItemType
from pinrec_core.model.pinrec import PinRec
from pinrec_core.model.variants import generative_model
from tests.pinrec_core.builders import batch_of, packed_batch_of, random_history, tiny_config, tiny_model

TOLERANCE = 2e-5
"""float32 sums in another order (masked attention over a longer row, another batch size) of values of order 1."""


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def hidden_states(model, histories: list[History]) -> torch.Tensor:
    with torch.inference_mode():
        return model(batch_of(model, histories))[0]


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=5), seed=st.integers(0, 100))
def test_a_row_is_the_same_alone_and_padded_in_a_batch(model, lengths, seed):
    histories = [random_history(n, seed + i) for i, n in enumerate(lengths)]
    together = hidden_states(model, histories)
    for row, history in zip(together, histories, strict=True):
        alone = hidden_states(model, [history])[0]
        torch.testing.assert_close(row[: len(history) + 1], alone, atol=TOLERANCE, rtol=0)


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5), steps=st.integers(0, 3), seed=st.integers(0, 100))
def test_packed_prefill_and_steps_equal_the_full_pass(model, lengths, steps, seed):
    """The last ``steps`` interactions of every row come as generated tokens do, behind a prefill of the others."""
    histories = [random_history(length + steps, seed + row) for row, length in enumerate(lengths)]
    full = hidden_states(model, histories)
    with torch.inference_mode():
        padded = batch_of(model, histories)
        tokens = model.history_tokens(padded, model.represent_items(padded))
        prefilled = packed_batch_of(model, [h.take(slice(0, n)) for h, n in zip(histories, lengths, strict=True)])
        hidden, state = model.decoder.prefill(model.packed_tokens(prefilled), prefilled.layout)
        for step in range(steps + 1):
            expected = torch.stack([row[length + step] for row, length in zip(full, lengths, strict=True)])
            torch.testing.assert_close(hidden, expected, atol=TOLERANCE, rtol=0)
            if step < steps:
                token = torch.stack([row[length + step + 1] for row, length in zip(tokens, lengths, strict=True)])
                hidden, state = model.decoder.step(token, state)


def test_the_future_does_not_reach_the_past(model):
    history = random_history(12, 1)
    other = random_history(12, 2)
    mixed = History.concatenate([history.take(slice(0, 7)), other.take(slice(7, 12))])
    before, after = hidden_states(model, [history])[0], hidden_states(model, [mixed])[0]
    torch.testing.assert_close(before[:8], after[:8], atol=TOLERANCE, rtol=0)
    assert (before[8] - after[8]).abs().max() > 0.01


@pytest.mark.parametrize("field", ["surface", "timestamp", "feature", "item_key", "item_type"])
def test_each_part_of_an_interaction_matters(model, field):
    history = random_history(6, 3, queries=False)
    changed = {name: np.array(getattr(history, name)) for name in History.__slots__}
    changed[field][-1] += 1 if field != "timestamp" else 40_000
    difference = hidden_states(model, [history])[0, -1] - hidden_states(model, [History(**changed)])[0, -1]
    assert difference.abs().max() > 1e-4


def test_a_query_ignores_the_id_table(model):
    history = random_history(4, 4)
    history.item_type[-1] = ItemType.QUERY
    other = {name: np.array(getattr(history, name)) for name in History.__slots__}
    other["item_key"][-1] += 12345
    same = hidden_states(model, [history]) - hidden_states(model, [History(**other)])
    assert same.abs().max() == 0


def test_a_user_without_history_is_read_from_surface_and_time(model):
    empty = random_history(0, 0)
    with torch.inference_mode():
        states = [model(batch_of(model, [empty], surface=s, time=t))[0] for s, t in ((1, 0), (2, 0), (1, 40_000))]
    assert states[0].shape == (1, 1, model.config.hidden_width)
    assert (states[0] - states[1]).abs().max() > 1e-3
    assert (states[0] - states[2]).abs().max() > 1e-3


def test_item_representations_are_unit_vectors(model):
    _, item = model(batch_of(model, [random_history(9, 5)]))
    torch.testing.assert_close(item.norm(dim=-1), torch.ones(1, 9))


@pytest.mark.parametrize("width", [32, 256])
def test_a_fresh_model_sees_what_happened_before_it_sees_when(width):
    model = PinRec(tiny_config(hidden_width=width))
    generator = torch.Generator().manual_seed(0)
    item = F.normalize(torch.randn(200, 1, model.config.item_width, generator=generator), dim=-1)
    time = torch.randint(1_500_000_000, 1_600_000_000, (200, 1), generator=generator)
    surface = torch.randint(0, model.config.num_surfaces, (200, 1), generator=generator)

    def spread(item, surface, time):
        return model.tokens(item, surface, time, time - 60).std(dim=0).mean()

    with torch.inference_mode():
        by_item = spread(item, surface[:1].expand(200, 1), time[:1].expand(200, 1))
        by_context = spread(item[:1].expand(200, 1, -1), surface, time)
    assert by_item > 2 * by_context


@pytest.mark.parametrize("variant", [Variant.UC, Variant.MT_OC, Variant.SASREC])
def test_a_fresh_model_answers_with_the_item_it_saw_last(variant):
    torch.manual_seed(0)
    model = generative_model(tiny_config(variant, hidden_width=32, item_width=32, id_width=32)).eval()
    with torch.inference_mode():
        hidden, item = model(batch_of(model, [random_history(20, seed, queries=False) for seed in range(20)]))
        first = torch.zeros(20, 20, dtype=torch.int64)
        answer = model.head(hidden[:, 1:], first, first + 1)
    similarity = answer @ item.transpose(1, 2)  # [user, answer, item]
    # Chance would be 1 in 20. At such a small width, context and conditioning disturb some answers.
    assert (similarity.argmax(-1) == torch.arange(20)).float().mean() > 0.8
