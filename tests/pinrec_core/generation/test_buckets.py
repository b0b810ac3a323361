"""Buckets: few, each batch goes to the smallest that holds it, and padding keeps who reads what."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pinrec_core.errors import InvalidRequestError
from pinrec_core.generation.buckets import (
    MAX_BATCH_SIZE,
    Bucket,
    default_buckets,
    example,
    input_shapes,
    next_larger,
    parts_of,
    place,
)
from pinrec_core.generation.program import inputs_of, program_inputs
from pinrec_core.model.packed_histories import PackedHistories
from tests.pinrec_core.builders import tiny_config

ROOT = Path(__file__).parents[3]
TABLE = (Bucket(rows=4, positions=9), Bucket(rows=1, positions=33), Bucket(rows=4, positions=33))


def test_the_default_buckets_are_few_and_hold_every_batch_that_triton_makes():
    buckets = default_buckets(512)
    assert [str(bucket) for bucket in buckets] == [
        "32 x 513", "16 x 513", "32 x 129", "16 x 129", "4 x 513", "4 x 129", "1 x 513", "1 x 129",
    ]  # fmt: skip
    assert next_larger(buckets, MAX_BATCH_SIZE, 513) == buckets[0]
    assert len(default_buckets(1)) == 4  # short and long are the same
    configuration = (ROOT / "model_repository" / "generator" / "config.pbtxt").read_text("utf-8")
    assert re.findall(r"^max_batch_size: (\d+)", configuration, re.MULTILINE) == [str(MAX_BATCH_SIZE)]


@given(rows=st.integers(1, MAX_BATCH_SIZE), positions=st.integers(1, 513))
def test_a_batch_goes_to_the_smallest_bucket_that_holds_it(rows, positions):
    buckets = default_buckets(512)
    chosen = next_larger(buckets, rows, positions)
    assert chosen.rows >= rows
    assert chosen.positions >= positions
    assert all(
        bucket.tokens >= chosen.tokens for bucket in buckets if bucket.rows >= rows and bucket.positions >= positions
    )


def test_what_no_bucket_holds_is_refused_by_size():
    assert next_larger(TABLE, 2, 9) == TABLE[0]
    assert next_larger(TABLE, 1, 10) == TABLE[1]
    for rows, positions in ((5, 9), (1, 34)):
        with pytest.raises(InvalidRequestError, match=f"batch='{rows} x {positions}': expected at most 4 x 33 tokens"):
            next_larger(TABLE, rows, positions)


def test_a_larger_batch_is_split_into_parts_of_the_largest_bucket():
    assert parts_of(TABLE, 9) == [range(4), range(4, 8), range(8, 9)]
    assert parts_of(TABLE, 4) == [range(4)]


def test_a_bucket_has_the_shapes_of_its_example():
    config = tiny_config()
    for bucket in (Bucket(rows=1, positions=1), Bucket(rows=3, positions=25)):
        inputs = program_inputs(*example(bucket, config, 4))
        assert [(values.dtype, tuple(values.shape)) for values in inputs] == input_shapes(bucket, config, 4)


def test_padding_by_hand():
    """Rows of 3 and 1 tokens in a bucket of 3 rows of 4: token 11 is filler, and all that the third row reads."""
    config, bucket = tiny_config(), Bucket(rows=3, positions=4)
    long, short = (example(Bucket(rows=1, positions=P), config, 2)[0] for P in (3, 1))
    both = [torch.cat(pair) for pair in zip(long.tensors()[:8], short.tensors()[:8], strict=True)]
    layout = (torch.tensor([[0, 1, 2], [3, 3, 3]]), torch.tensor([0, 1, 2, 3]), torch.tensor([2, 3]))
    history = PackedHistories.of(*both, *layout)
    _, request = example(Bucket(rows=2, positions=1), config, 2)
    into = [torch.full(sizes, 1).to(dtype) for dtype, sizes in input_shapes(bucket, config, 2)]
    place(history, request, range(2), bucket, into)
    padded, context = inputs_of(into)
    assert torch.equal(padded.feature[:4], history.feature)
    assert padded.layout.position.tolist() == [0, 1, 2, 0] + [0] * 8
    assert padded.layout.slot.tolist() == [0, 1, 2, 4] + [0] * 8
    assert padded.layout.last.tolist() == [2, 3, 11]
    assert padded.layout.token.tolist() == [[0, 1, 2, 2], [3, 3, 3, 3], [11, 11, 11, 11]]
    assert context.timestamp.tolist() == [*request.timestamp.tolist(), 0]
    assert context.strength.tolist() == [*request.strength.tolist(), [0.0] * config.num_outcomes]
    place(history, request, range(1, 2), bucket, into)  # the second row alone
    padded, _ = inputs_of(into)
    assert torch.equal(padded.timestamp[:1], history.timestamp[3:])
    assert padded.layout.slot.tolist() == [0] * 12
    assert padded.layout.last.tolist() == [0, 11, 11]
