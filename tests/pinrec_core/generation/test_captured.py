"""Recorded programs of buckets answer what ``generate`` and ``compress`` do, whatever a bucket served before.

A recorder that runs the program again stands for the GPU; what is recorded has fixed shapes and never asks the host.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pinrec_core.config.sections import GenerationConfig, Variant
from pinrec_core.errors import InvalidRequestError, PinRecError
from pinrec_core.generation.buckets import Bucket, default_buckets, example, input_shapes
from pinrec_core.generation.captured import CapturedGenerator, CompressedGeneration
from pinrec_core.generation.cuda_graphs import CudaGraphs, fixed_program
from pinrec_core.generation.generate import RequestContext, generate
from pinrec_core.generation.planning import merged
from pinrec_core.generation.program import COSINE_TOLERANCE, Products, largest_difference, program_inputs, with_products
from pinrec_core.generation.static_buffers import StaticBuffers
from pinrec_core.model.packed_histories import PackedHistories, pack
from pinrec_core.model.sequence_model import SequenceModel
from pinrec_core.model.variants import generative_model
from tests.pinrec_core.builders import random_history, tiny_config, tiny_model
from tests.pinrec_core.generation.rerun import NoHostReads, Rerun, reads_host

TOLERANCE = 2e-5  # float32 sums in another order; embeddings are unit vectors
GENERATION = GenerationConfig(steps=4, offsets=(1, 3), merge_cosine=0.8, step_discount=0.7)
SMALL = (Bucket(rows=1, positions=9), Bucket(rows=3, positions=9), Bucket(rows=3, positions=25))


def batch(model: SequenceModel, lengths: list[int], steps: int = 4) -> tuple[PackedHistories, RequestContext]:
    """Random requests with ID embeddings in FP16, as the stage gets them."""
    B, random = len(lengths), np.random.default_rng(sum(lengths))
    histories = [random_history(length, seed) for seed, length in enumerate(lengths)]
    ids = [random.normal(size=(length, model.config.id_width)).astype(np.float16) for length in lengths]
    request = RequestContext(
        surface=torch.ones(B, dtype=torch.int64),
        timestamp=torch.full((B,), 1_600_000_100),
        strength=torch.from_numpy(random.uniform(0, 2, (B, model.config.num_conditions)).astype(np.float32)),
        feedback_outcome=torch.from_numpy(random.integers(0, model.config.num_conditions, (B, steps - 1))),
    )
    return pack(histories, ids, request_surface=[1] * B, request_time=[1_600_000_100] * B), request


def captured(model: SequenceModel, buckets: tuple[Bucket, ...] | None = SMALL) -> CapturedGenerator:
    return CapturedGenerator(model, GENERATION, recorder=Rerun(), buckets=buckets)


@pytest.mark.parametrize(
    "lengths", [[8], [0], [5, 0, 8], [24, 1], [3, 24, 0, 7, 8, 24, 1, 0]], ids=lambda lengths: f"lengths {lengths}"
)
def test_buckets_answer_what_the_plain_model_does(lengths):
    """The last batch is larger than the largest bucket, so that it is split."""
    model = tiny_model()
    history, request = batch(model, lengths)
    embedding, weight = captured(model)(history, request)
    expected, expected_weight = merged(generate(model, history, request, GENERATION.offsets), GENERATION)
    torch.testing.assert_close(embedding, expected, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(weight, expected_weight, atol=1e-12, rtol=0)  # float64 sums in another order


def test_what_a_bucket_served_before_changes_no_bit_of_an_answer():
    """A full batch that is not a number anywhere lies in the buffers, beneath the filler of those that follow."""
    model = tiny_model()
    used = captured(model)
    poison, request = batch(model, [24] * 3)
    poison.scale.fill_(torch.nan)
    poison.id_embedding.fill_(torch.nan)
    assert used(poison, request)[0].isnan().all()
    for lengths in ([9], [0, 11], [24, 0, 3], [10, 2]):
        history, request = batch(model, lengths)
        again, fresh = used(history, request), captured(model)(history, request)
        for made, expected in zip(again, fresh, strict=True):
            assert not made.isnan().any()
            assert torch.equal(made, expected)


def test_a_request_that_is_not_a_number_harms_no_neighbour():
    model = tiny_model()
    history, request = batch(model, [7, 5, 8])
    clean = [values.clone() for values in captured(model)(history, request)]
    history.scale[8:14] = torch.nan  # the second of the three
    for made, expected in zip(captured(model)(history, request), clean, strict=True):
        assert torch.equal(made[[0, 2]], expected[[0, 2]])


def test_programs_are_recorded_once_and_the_largest_first():
    recorded: list[int] = []

    class Counting(Rerun):
        def record(self, program, inputs, outputs):
            recorded.append(len(inputs.on_host[0]))
            return super().record(program, inputs, outputs)

    model = tiny_model()
    generator = CapturedGenerator(model, GENERATION, recorder=Counting())
    assert generator.buckets == default_buckets(24)
    assert recorded == sorted((bucket.tokens for bucket in default_buckets(24)), reverse=True)
    generator(*batch(model, [3, 4]))
    assert len(recorded) == len(default_buckets(24))


def test_a_history_longer_than_the_model_allows_is_refused():
    model = tiny_model()
    with pytest.raises(InvalidRequestError, match="T=25: expected at most max_history=24"):
        captured(model)(*batch(model, [2, 25]))


def test_a_recorded_program_that_answers_something_else_is_refused():
    def wrong(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        embedding, weight = program(*inputs)
        return embedding.flip(-1), weight

    program = CompressedGeneration(tiny_model(), GENERATION)
    with pytest.raises(PinRecError, match=r"generator for 3 x 25 tokens: 1 - cosine .* expected at most 0.001"):
        CapturedGenerator(tiny_model(), GENERATION, recorder=Rerun(wrong), buckets=SMALL)


@pytest.mark.parametrize("bucket", default_buckets(24), ids=str)
def test_every_default_bucket_is_exported_whole_with_its_compression(bucket):
    """What a CUDA graph needs, without a GPU: strict export in FP16, no break, host read, symbol or constant."""
    model, steps = tiny_model().half(), 3
    program = CompressedGeneration(model, replace(GENERATION, steps=steps)).eval()
    with torch.no_grad():
        exported = torch.export.export(program, program_inputs(*example(bucket, model.config, steps)), strict=True)
    nodes = [node for node in exported.graph.nodes if node.op == "call_function"]
    assert not [node for node in nodes if reads_host(str(node.target))]
    assert not exported.constants  # such as a tensor made of Python's numbers, which is copied to the device each time
    assert not exported.range_constraints
    for node in exported.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            assert all(isinstance(size, int) for size in value.shape), node


@pytest.mark.parametrize("variant", [Variant.UC, Variant.MT, Variant.MT_OC, Variant.PINNERFORMER, Variant.SASREC])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_on_a_device_without_data_nothing_is_read(variant, precision):
    """Tensors of the device `meta` have shapes but no data: what reads data, or needs it on the host, fails there."""
    config, steps = tiny_config(variant, id_width=16), 1 if variant.one_embedding else 4
    shapes = input_shapes(Bucket(rows=4, positions=25), config, steps)
    with torch.device("meta"):
        model = generative_model(config).eval()
        inputs = [torch.empty(sizes, dtype=dtype) for dtype, sizes in shapes]
    model = model.half() if precision == "fp16" else with_products(model, Products.BF16)
    program = CompressedGeneration(model, GenerationConfig(steps=steps, offsets=(1,))).eval()
    with torch.no_grad(), NoHostReads():
        embedding, weight = program(*inputs)
    assert embedding.device.type == weight.device.type == "meta"
    assert embedding.dtype is (torch.float16 if precision == "fp16" else torch.float32)
    assert weight.dtype is torch.float64


@pytest.mark.parametrize(
    "involve",
    [lambda x: x.sum().item(), lambda x: x.nonzero(), lambda x: x[x > 0], lambda x: x + torch.tensor([1, 2, 3])],
    ids=["item", "nonzero", "mask", "numbers of Python"],
)
def test_the_guard_against_the_host_can_fail(involve):
    with NoHostReads(), pytest.raises(AssertionError, match="the host would have to wait"):
        involve(torch.ones(3))


def test_more_programs_are_compiled_than_dynamo_would_allow():
    """Whole, for fixed shapes: a graph break, or one recompilation too many, raises."""
    model = tiny_model(layers=1)
    config = GenerationConfig(steps=2, offsets=(1,))
    program = CompressedGeneration(model, config).eval()
    sizes = [*default_buckets(24), Bucket(rows=2, positions=3), Bucket(rows=2, positions=4)]
    assert len(sizes) > torch._dynamo.config.recompile_limit
    for bucket in sizes:
        inputs = StaticBuffers(input_shapes(bucket, model.config, 2), torch.device("cpu"))
        made = [(torch.float32, (bucket.rows, 3, 2, 16)), (torch.float64, (bucket.rows, 3, 2))]
        outputs = StaticBuffers(made, torch.device("cpu"))
        fixed_program(program, inputs, outputs, backend="eager")()
        with torch.no_grad():
            embedding, _ = program(*inputs.on_device)
        torch.testing.assert_close(outputs.on_device[0], embedding, atol=TOLERANCE, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_cuda_graphs_answer_what_the_plain_model_does(precision):
    device = torch.device("cuda")
    model = tiny_model().to(device)
    model = model.half() if precision == "fp16" else with_products(model, Products.BF16)
    generator = CapturedGenerator(model, GENERATION, recorder=CudaGraphs(device))
    for lengths in ([24], [0], [5, 0, 8], [24] * 40, [3, 24, 0, 7, 8]):
        history, request = batch(model, lengths)
        embedding, weight = generator(history, request)
        made = generate(model, history.to(device), request.to(device), GENERATION.offsets)
        expected, expected_weight = merged(made, GENERATION)
        # A cosine near the threshold may fall on either side of it in half precision; its group is left out.
        alike = torch.isclose(weight, expected_weight.cpu()).all(dim=-1)
        assert alike.float().mean() > 0.8
        assert largest_difference(embedding[alike], expected.cpu()[alike]) < COSINE_TOLERANCE
