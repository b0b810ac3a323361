"""The sizes of batches that an accelerator has programs for, and how any batch becomes one of them.

A captured program has fixed shapes. A batch is padded to the next larger bucket with filler: tokens that belong to no
row, and rows that belong to no request. A row reads its own tokens alone, so filler changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pinrec_core.config.sections import ModelConfig
from pinrec_core.errors import require
from pinrec_core.generation.generate import RequestContext
from pinrec_core.generation.program import REQUEST_TENSORS, inputs_of, program_inputs
from pinrec_core.history import DTYPES, History, ItemType
from pinrec_core.model.packed_histories import PackedHistories, pack

MAX_BATCH_SIZE = 32
"""``max_batch_size`` of the generator's configuration: Triton never hands more requests to a stage at once."""
ROWS = (1, 4, 16, MAX_BATCH_SIZE)
SHORT = 4
"""Histories up to this part of the longest have buckets of their own."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Bucket:
    """Up to B rows with up to P tokens each, the start token included."""

    rows: int  # B
    positions: int  # P

    @property
    def tokens(self) -> int:
        """N of the padded batch."""
        return self.rows * self.positions

    def __str__(self) -> str:
        return f"{self.rows} x {self.positions}"


def default_buckets(max_history: int) -> tuple[Bucket, ...]:
    """Four sizes of batches, for short and for long histories, the largest bucket first.

    Few, because each is compiled and captured before the stage is ready. At most four times as much is computed as a
    batch would need, and less than that where time counts: small batches leave most of a GPU idle anyway.
    """
    positions = sorted({1 + -(-max_history // SHORT), 1 + max_history})
    buckets = (Bucket(rows=rows, positions=P) for rows in ROWS for P in positions)
    return tuple(sorted(buckets, key=lambda bucket: (bucket.tokens, bucket.rows), reverse=True))


def next_larger(buckets: Sequence[Bucket], rows: int, positions: int) -> Bucket:
    """The smallest bucket that a batch of this size fits into.

    Raises ``InvalidRequestError`` where none is as large.
    """
    fitting = [bucket for bucket in buckets if bucket.rows >= rows and bucket.positions >= positions]
    require(bool(fitting), "batch", f"{rows} x {positions}",
            f"at most {max(buckets, key=lambda bucket: bucket.tokens)} tokens, the largest bucket")  # fmt: skip
    return min(fitting, key=lambda bucket: (bucket.tokens, bucket.rows))


def parts_of(buckets: Sequence[Bucket], rows: int) -> list[range]:
    """The rows of a batch, in parts that are no larger than the largest bucket."""
    largest = max(bucket.rows for bucket in buckets)
    return [range(begin, min(begin + largest, rows)) for begin in range(0, rows, largest)]


def longest(history: PackedHistories, rows: range) -> int:
    """The tokens of the longest of these rows."""
    return int(history.layout.position[_last(history, rows)].max()) + 1


def place(
    history: PackedHistories, request: RequestContext, rows: range, bucket: Bucket, into: Sequence[Tensor]
) -> None:
    """Write some rows of a batch on the CPU into the inputs of a bucket's program, which keep their shapes.

    Filler tokens keep what an earlier batch left there, because nobody reads them; what decides who reads what is
    written as a whole. So a small batch costs no more than its own size.
    """
    (own, context), layout = inputs_of(into), history.layout
    last = _last(history, rows)
    begin = last - layout.position[last]
    first, behind = int(begin[0]), int(last[-1]) + 1
    N = behind - first
    for target, source in zip(own.tensors()[:7], history.tensors()[:7], strict=True):
        target[:N] = source[first:behind]
    position, P = layout.position[first:behind], bucket.positions
    row = torch.div(layout.slot[first:behind], layout.token.shape[1], rounding_mode="floor") - rows.start
    filler = bucket.tokens - 1  # what a filler row reads: wherever there is such a row, the last token is no request's
    _write(own.layout.position, position, 0)
    _write(own.layout.slot, row * P + position, 0)
    _write(own.layout.last, last - first, filler)
    _write(own.layout.token, torch.minimum(begin.unsqueeze(1) + torch.arange(P), last.unsqueeze(1)) - first, filler)
    for target, source in zip(context.tensors(), request.tensors(), strict=True):
        _write(target, source[rows.start : rows.stop], 0)


def input_shapes(bucket: Bucket, config: ModelConfig, steps: int) -> list[tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of each of ``program_inputs`` in a bucket. ID embeddings arrive in FP16."""
    one = program_inputs(*example(Bucket(rows=1, positions=1), config, steps))
    B, P, N = bucket.rows, bucket.positions, bucket.tokens
    leading = [(N,)] * 8 + [(B, P), (N,)] + [(B,)] * (1 + REQUEST_TENSORS)
    return [(x.dtype, (*sizes, *x.shape[len(sizes) :])) for x, sizes in zip(one, leading, strict=True)]


def example(bucket: Bucket, config: ModelConfig, steps: int) -> tuple[PackedHistories, RequestContext]:
    """A batch of random histories that fills a bucket, on the CPU."""
    random = np.random.default_rng(0)
    B, T = bucket.rows, bucket.positions - 1
    now = 1_700_000_000  # any time of this century
    histories = [
        History(
            item_key=np.zeros(T, DTYPES["item_key"]),
            item_type=random.integers(0, len(ItemType), T).astype(DTYPES["item_type"]),
            outcome=np.zeros(T, DTYPES["outcome"]),
            surface=random.integers(0, config.num_surfaces, T).astype(DTYPES["surface"]),
            timestamp=np.sort(random.integers(now - 10_000_000, now, T)),
            feature=random.integers(-127, 128, (T, config.feature_width)).astype(DTYPES["feature"]),
            scale=np.full(T, 1 / 127 / config.feature_width**0.5, DTYPES["scale"]),
        )
        for _ in range(B)
    ]
    ids = [(random.normal(size=(T, config.id_width)) * 0.02).astype(np.float16) for _ in range(B)]
    context = RequestContext(
        surface=torch.zeros(B, dtype=torch.int64),
        timestamp=torch.full((B,), now),
        strength=torch.ones(B, config.num_conditions),
        feedback_outcome=torch.from_numpy(random.integers(0, config.num_conditions, (B, steps - 1))),
    )
    return pack(histories, ids, request_surface=[0] * B, request_time=[now] * B), context


def _last(history: PackedHistories, rows: range) -> Tensor:
    return history.layout.last[rows.start : rows.stop]


def _write(target: Tensor, values: Tensor, filler: int) -> None:
    target[: len(values)] = values
    target[len(values) :] = filler
