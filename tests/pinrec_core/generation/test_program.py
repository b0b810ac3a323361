"""A generation as one program: exported whole for any shape, it answers what ``generate`` does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pinrec_core.config.sections import Variant
from pinrec_core.errors import ConfigError
from pinrec_core.generation.generate import RequestContext, generate
from pinrec_core.generation.program import (
    GenerationProgram,
    Products,
    export_for_any_shape,
    program_inputs,
    with_products,
)
from pinrec_core.model.packed_histories import PackedHistories
from pinrec_core.model.sequence_model import SequenceModel
from pinrec_core.model.variants import generative_model
from tests.pinrec_core.builders import packed_batch_of, random_history, tiny_config, tiny_model
from tests.pinrec_core.generation.rerun import reads_host

TOLERANCE = 2e-5  # float32 sums in another order; embeddings are unit vectors
STEPS = 4


def batch(model: SequenceModel, lengths: list[int], steps: int = STEPS) -> tuple[PackedHistories, RequestContext]:
    histories = [random_history(length, seed) for seed, length in enumerate(lengths)]
    outcome = np.random.default_rng(0).integers(0, model.config.num_conditions, (len(lengths), steps - 1))
    request = RequestContext(
        surface=torch.ones(len(lengths), dtype=torch.int64),
        timestamp=torch.full((len(lengths),), 1_600_000_100),
        strength=torch.linspace(0.5, 1.5, len(lengths) * model.config.num_conditions).view(len(lengths), -1),
        feedback_outcome=torch.from_numpy(outcome),
    )
    return packed_batch_of(model, histories), request


def operators(exported: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]


def test_one_export_serves_every_batch_size_and_length():
    model = tiny_model()
    program = GenerationProgram(model, steps=STEPS, offsets=(1, 3))
    exported = export_for_any_shape(program, program_inputs(*batch(model, [5, 0, 9])))
    assert not [name for name in operators(exported) if reads_host(name)]
    run = exported.module()
    for lengths in ([7], [0], [1, 24], [24] * 5, [0, 0], [3, 0, 24, 11, 6, 2, 19]):
        history, request = batch(model, lengths)
        made = run(*program_inputs(history, request))
        torch.testing.assert_close(made, generate(model, history, request, (1, 3)), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("variant", [Variant.UC, Variant.OC, Variant.MT, Variant.PINNERFORMER, Variant.SASREC])
def test_every_variant_is_exported(variant):
    model = generative_model(tiny_config(variant, id_width=16)).eval()
    steps = 1 if variant.one_embedding else STEPS
    program = GenerationProgram(model, steps=steps, offsets=(1,))
    exported = export_for_any_shape(program, program_inputs(*batch(model, [4, 2], steps)))
    history, request = batch(model, [6, 0, 3], steps)
    made = exported.module()(*program_inputs(history, request))
    torch.testing.assert_close(made, generate(model, history, request, (1,)), atol=TOLERANCE, rtol=0)


def test_bf16_products_generate_nearly_the_same():
    """BF16 rounds the factors of a product by 2^-9; the residual stream, norms and head stay in FP32."""
    model = tiny_model()
    history, request = batch(model, [12, 3, 0])
    exact = generate(model, history, request, (1, 2))
    rounded = generate(with_products(model, Products.BF16), history, request, (1, 2))
    assert not torch.equal(rounded, exact)
    assert float((1 - (rounded * exact).sum(-1)).max()) < 1e-3
    assert model.decoder.blocks[0].mlp_in.weight.dtype is torch.float32  # the copy alone was rounded


def test_int8_products_generate_nearly_the_same():
    """INT8 rounds the factors of a product by up to 1/254 of the largest one of a token or channel, so that a product
    is off by about a hundredth of its size, and a sum over the width by less."""
    model = tiny_model()
    history, request = batch(model, [12, 3, 0])
    exact = generate(model, history, request, (1, 2))
    rounded = generate(with_products(model, Products.INT8), history, request, (1, 2))
    assert not torch.equal(rounded, exact)
    assert float((1 - (rounded * exact).sum(-1)).max()) < 1e-2
    assert isinstance(model.decoder.blocks[0].mlp_in, torch.nn.Linear)  # the copy alone was rounded


def test_int8_products_are_exported_for_any_shape():
    model = with_products(tiny_model(), Products.INT8)
    program = GenerationProgram(model, steps=STEPS, offsets=(1,))
    exported = export_for_any_shape(program, program_inputs(*batch(model, [4, 2])))
    history, request = batch(model, [6, 0, 3])
    made = exported.module()(*program_inputs(history, request))
    torch.testing.assert_close(made, generate(model, history, request, (1,)), atol=TOLERANCE, rtol=0)


def test_more_steps_than_the_model_was_made_for_are_refused():
    with pytest.raises(ConfigError, match="steps=9: expected at most max_steps=8"):
        GenerationProgram(tiny_model(), steps=9, offsets=(1,))
