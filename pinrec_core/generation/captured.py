"""Generation and compression on an accelerator, as one recorded program for each bucket of sizes (PinRec, serving).

All of them are recorded when the generator is built, the largest first, and none afterwards. A batch is written into
the inputs of the next larger bucket; then follow one copy to the device, the program, and one copy back. The host waits
once, at the end. What recording is, a ``Recorder`` knows: CUDA graphs are in ``cuda_graphs``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from pinrec_core.config.sections import GenerationConfig
from pinrec_core.errors import PinRecError, require
from pinrec_core.generation.buckets import (
    Bucket,
    default_buckets,
    example,
    input_shapes,
    longest,
    next_larger,
    parts_of,
    place,
)
from pinrec_core.generation.compression import by_fixed_steps
from pinrec_core.generation.generate import RequestContext
from pinrec_core.generation.planning import own_weights
from pinrec_core.generation.program import COSINE_TOLERANCE, GenerationProgram, largest_difference
from pinrec_core.generation.static_buffers import StaticBuffers
from pinrec_core.model.packed_histories import PackedHistories
from pinrec_core.model.sequence_model import SequenceModel

log = logging.getLogger(__name__)


class CompressedGeneration(nn.Module):
    """``GenerationProgram``, and behind it the compression of what it generates: tensors alone, no data decides.

    Embeddings stay in FP16 where the head computes them so, which halves the copy to the host.
    """

    def __init__(self, model: SequenceModel, generation: GenerationConfig) -> None:
        super().__init__()
        self.program = GenerationProgram(model, steps=generation.steps, offsets=generation.offsets)
        self.threshold = generation.merge_cosine
        self.weight: Tensor
        n = generation.steps * len(generation.offsets)
        self.register_buffer("weight", own_weights(generation, n, self.program.condition.device))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """The tensors of ``program_inputs`` → embeddings ``[B, O, n, D]``, and weights float64 ``[B, O, n]``."""
        embedding = self.program(*tensors)  # FP32
        merged, weight = by_fixed_steps(embedding, self.threshold, self.weight)
        return merged.to(self.dtype), weight

    @property
    def dtype(self) -> torch.dtype:
        return torch.float16 if self.program.condition.dtype is torch.float16 else torch.float32


class Recorder(Protocol):
    """Makes of a program one that is run again and again on the same buffers."""

    @property
    def device(self) -> torch.device: ...

    def record(
        self, program: Callable[..., tuple[Tensor, ...]], inputs: StaticBuffers, outputs: StaticBuffers
    ) -> Callable[[], None]:
        """→ a function that copies ``inputs`` to the device, runs ``program`` on them, copies its results into
        ``outputs`` on the host, and returns when they are there."""
        ...

    def memory(self) -> int:
        """Bytes of the device that are in use."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recorded:
    inputs: StaticBuffers
    outputs: StaticBuffers
    replay: Callable[[], None]


class CapturedGenerator:
    """Answers batches of any size and length with the programs of a few buckets.

    Raises whatever the recorder does, and ``PinRecError`` where a recorded program gives other embeddings than the same
    program when it is run plainly.
    """

    def __init__(
        self,
        model: SequenceModel,
        generation: GenerationConfig,
        *,
        recorder: Recorder,
        buckets: Sequence[Bucket] | None = None,
    ) -> None:
        config = model.config
        program = CompressedGeneration(model, generation).eval()
        wanted = default_buckets(config.max_history) if buckets is None else buckets
        self._max_history = config.max_history
        self._recorded: dict[Bucket, _Recorded] = {}
        with torch.no_grad():
            for bucket in sorted(wanted, key=lambda bucket: bucket.tokens, reverse=True):
                began, used = time.perf_counter(), recorder.memory()
                outputs = [
                    (program.dtype, (bucket.rows, config.num_conditions, len(program.weight), config.item_width)),
                    (torch.float64, (bucket.rows, config.num_conditions, len(program.weight))),
                ]
                self._recorded[bucket] = _recorded(
                    program, recorder, bucket,
                    inputs=StaticBuffers(input_shapes(bucket, config, generation.steps), recorder.device),
                    outputs=StaticBuffers(outputs, recorder.device),
                )  # fmt: skip
                log.info(
                    "generator for %s tokens recorded in %.1f s, %.1f MiB of the device",
                    bucket, time.perf_counter() - began, (recorder.memory() - used) / 2**20,
                )  # fmt: skip

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        return tuple(self._recorded)

    def __call__(self, history: PackedHistories, request: RequestContext) -> tuple[Tensor, Tensor]:
        """B histories and requests, on the CPU → embeddings ``[B, O, n, D]`` in FP16 or FP32, and their weights after
        compression, float64 ``[B, O, n]``, on the CPU.

        Both may be views of a buffer, which the next call overwrites. Raises ``InvalidRequestError`` for a longer
        history than the model was made for.
        """
        B = len(history.layout.last)
        T = longest(history, range(B)) - 1
        require(T <= self._max_history, "T", T, f"at most max_history={self._max_history}")
        parts = parts_of(self.buckets, B)
        if len(parts) == 1:
            return self._run(history, request, parts[0])
        answers = [tuple(values.clone() for values in self._run(history, request, rows)) for rows in parts]
        embedding, weight = (torch.cat(values) for values in zip(*answers, strict=True))
        return embedding, weight

    def _run(self, history: PackedHistories, request: RequestContext, rows: range) -> tuple[Tensor, Tensor]:
        bucket = next_larger(self.buckets, len(rows), longest(history, rows))
        recorded = self._recorded[bucket]
        place(history, request, rows, bucket, recorded.inputs.on_host)
        recorded.replay()
        # All embeddings come, kept or not. How many are kept is known on the device alone: the host would have to wait
        # for that number before it could begin a copy of that size. 480 embeddings of 256 values are 240 KiB in FP16.
        embedding, weight = recorded.outputs.on_host
        return embedding[: len(rows)], weight[: len(rows)]


def _recorded(
    program: CompressedGeneration, recorder: Recorder, bucket: Bucket, *, inputs: StaticBuffers, outputs: StaticBuffers
) -> _Recorded:
    """A bucket's program, recorded and run once on random histories, which has to give what the program gives."""
    history, request = example(bucket, program.program.model.config, program.program.steps)
    place(history, request, range(bucket.rows), bucket, inputs.on_host)
    inputs.to_device()  # recording runs the program, which must not look up what random bytes would be
    replay = recorder.record(program, inputs, outputs)
    replay()
    expected, _ = program(*inputs.on_device)
    difference = largest_difference(outputs.on_host[0], expected.cpu())  # once per bucket, before the stage is ready
    if not difference <= COSINE_TOLERANCE:
        raise PinRecError(
            f"generator for {bucket} tokens: 1 - cosine to the plain program's embeddings is up to {difference:.2g}, "
            f"expected at most {COSINE_TOLERANCE}"
        )
    return _Recorded(inputs=inputs, outputs=outputs, replay=replay)
