"""FLOPs of the forward pass: counted by hand, and against what torch counts while a model runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pinrec_core.config.sections import Variant
from pinrec_core.model.flops import ForwardFlops
from pinrec_core.model.pinrec import PinRec
from pinrec_core.model.variants import generative_model
from pinrec_core.representations import time_features
from tests.pinrec_core.builders import F, packed_batch_of, random_history, tiny_config

CONFIG = tiny_config(Variant.OC, layers=3, hidden_width=8, item_width=4, id_width=2, embedder_layers=3, heads=2)


def test_every_part_by_hand():
    flops = ForwardFlops.of(CONFIG)
    assert flops.embed_pin == 2 * ((F + 2) * 8 + 8 * 8 + 8 * 4)
    assert flops.embed_query == 2 * (F * 8 + 8 * 8 + 8 * 4)
    assert flops.project_item == 2 * 4 * 8
    assert flops.project_time == 2 * time_features.WIDTH * 8
    assert flops.layers == 3 * 2 * (3 + 1 + 8) * 8 * 8
    assert flops.attend == 3 * 2 * 2 * 8
    assert (flops.read_hidden, flops.answer, flops.score) == (2 * 8 * 16, 2 * 16 * 4, 2 * 4)


def test_a_variant_is_counted_without_the_parts_that_it_lacks():
    ids = ForwardFlops.of(tiny_config(Variant.DOT_PRODUCT, id_width=16))
    assert ids == ForwardFlops(score=2 * 16)
    sasrec = ForwardFlops.of(tiny_config(Variant.SASREC, id_width=16))
    assert (sasrec.embed_pin, sasrec.embed_query, sasrec.project_time, sasrec.read_hidden) == (0, 0, 0, 0)
    assert sasrec.answer == 2 * 32 * 16


@pytest.mark.parametrize(("tokens", "cached"), [(1, 0), (5, 0), (1, 7), (3, 7)])
def test_tokens_see_themselves_and_what_came_before(tokens, cached):
    visible = sum(cached + number for number in range(1, tokens + 1))
    flops = ForwardFlops.of(CONFIG)
    assert flops.decode(tokens, cached=cached) == tokens * flops.layers + visible * flops.attend


def test_embedders_tokens_and_head_agree_with_those_that_torch_counts():
    model, flops = PinRec(CONFIG).eval(), ForwardFlops.of(CONFIG)
    zero = torch.zeros(1, dtype=torch.int64)
    content, ids, hidden = torch.zeros(1, F), torch.zeros(1, 2), torch.zeros(1, 8)
    condition = model.head.condition(zero, zero + 1)
    assert counted(lambda: model.pin_embedder(torch.cat([content, ids], dim=-1))) == flops.embed_pin
    assert counted(lambda: model.query_embedder(content)) == flops.embed_query
    token = counted(lambda: model.tokens(torch.zeros(1, 4), zero, zero, zero))
    assert token == flops.project_item + flops.project_time
    assert counted(lambda: model.head.conditioned(hidden, condition)) == flops.read_hidden + flops.answer


@pytest.mark.parametrize("variant", [Variant.OC, Variant.SASREC])
def test_a_prefill_agrees_with_what_torch_counts(variant):
    """torch counts all pairs of positions in attention, and the floor those that the causal mask leaves."""
    config = tiny_config(variant, id_width=16)
    model, flops = generative_model(config).eval(), ForwardFlops.of(config)
    history = packed_batch_of(model, [random_history(8, 0)])
    tokens = torch.zeros(9, config.hidden_width)
    masked = (9 * 9 - 9 * 10 // 2) * flops.attend * (config.layers - 1) // config.layers
    assert counted(lambda: model.decoder.prefill(tokens, history.layout)) == flops.prefill(9) + masked


@pytest.mark.parametrize("variant", [Variant.OC, Variant.SASREC])
def test_one_cached_token_agrees_with_what_torch_counts(variant):
    config = tiny_config(variant, id_width=16)
    model = generative_model(config).eval()
    history = packed_batch_of(model, [random_history(8, 0)])
    with torch.inference_mode():
        _, state = model.decoder.prefill(model.packed_tokens(history), history.layout)
    token = torch.zeros(1, config.hidden_width)
    # torch counts matrix products alone, and a token sees itself through an elementwise one.
    itself = ForwardFlops.of(config).attend
    assert counted(lambda: model.decoder.step(token, state)) == ForwardFlops.of(config).decode(1, cached=9) - itself


@torch.inference_mode()
def counted(work: Callable[[], object]) -> int:
    """The FLOPs that torch counts. It cannot count the CPU's fused attention, so attention runs as two products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
