"""From sequences on disk to batches of histories, in memory that is bounded by the shuffle buffer.

The order of the data and all random draws for a batch are functions of (seed, process, epoch, batch). A resumed run
therefore sees the same data as an uninterrupted one without saving the state of any random generator. This module knows
nothing of losses or optimisers.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from pinrec_core.config.sections import ModelConfig, ObjectiveConfig, TrainingConfig
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.dataset.splits import is_evaluation_user, is_validation_user, sampling_order, without_last
from pinrec_core.history import NO_OUTCOME, History
from pinrec_core.model.collate import collate, pad
from pinrec_core.objective.objective import TrainingBatch

T = TypeVar("T")

SHUFFLE_BUFFER = 4096
"""Histories held at once, so that users who are neighbours in a file end up in different batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The B histories of one batch, and its place in the epoch."""

    histories: Sequence[History]
    batch: int  # its number within the epoch and the process, from 0
    share: float  # of the epoch that is over once this batch is done, in (0, 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedBatch:
    """A draw as tensors, with the seed for what the model and its objective draw: dropout, windows, negatives."""

    batch: TrainingBatch
    lengths: list[int]
    share: float
    torch_seed: int


def generator_of(seed: int, *key: int) -> np.random.Generator:
    """An independent random generator for every key.

    The key (process, epoch) is for the order of the data, the key (process, epoch, batch) for the draws of one batch.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def longest_segment(model: ModelConfig) -> int:
    """How many interactions fill the decoder. Shorter segments would never train the positions of generated tokens."""
    return model.max_positions - 1


def epoch_batches(
    sequences: Path,
    model: ModelConfig,
    training: TrainingConfig,
    *,
    num_users: int,
    epoch: int,
    process: int = 0,
    num_processes: int = 1,
) -> Iterator[Draw]:
    """One pass over the training users of a process, which are every ``num_processes``-th of the stream.

    A long history is cut into segments. The first cut is drawn again in each epoch, so that an interaction is predicted
    from contexts of many lengths. Within the shuffle buffer, histories of similar length share a batch. ``num_users``
    counts all users of the stream, including those held out.
    """
    generator = generator_of(training.seed, process, epoch)
    buffer: list[History] = []
    drained = batch = 0  # users whose histories have left the buffer

    def drain(seen: int) -> Iterator[Draw]:
        nonlocal batch
        order = np.argsort([len(h) + generator.random() for h in buffer])
        groups = [order[i : i + training.batch_users] for i in range(0, len(order), training.batch_users)]
        for done, i in enumerate(generator.permutation(len(groups)), start=1):
            users = drained + (seen - drained) * done / len(groups)
            yield Draw(histories=[buffer[j] for j in groups[i]], batch=batch, share=users / max(1, num_users))
            batch += 1
        buffer.clear()

    for seen, history in _own_histories(sequences, training, process, num_processes):
        buffer.extend(segments(history, longest_segment(model), generator))
        if len(buffer) >= SHUFFLE_BUFFER:
            yield from drain(seen)
            drained = seen
    yield from drain(num_users)


def has_targets(sequences: Path, training: TrainingConfig, *, process: int = 0, num_processes: int = 1) -> bool:
    """Whether any of a process's histories has an interaction with an outcome to learn from."""
    own = _own_histories(sequences, training, process, num_processes)
    return any((history.outcome != NO_OUTCOME).any() for _, history in own)


def _own_histories(
    sequences: Path, training: TrainingConfig, process: int, num_processes: int
) -> Iterator[tuple[int, History]]:
    """The histories that a process trains on, each with the number of users that the stream has read by then."""
    trained = 0
    for seen, (user_id, history) in enumerate(iter_histories(sequences), start=1):
        if not is_evaluation_user(user_id, training.evaluation_share):
            trained += 1
            if trained % num_processes == process:
                yield seen, without_last(history, training.held_out_last)


def segments(history: History, length: int, generator: np.random.Generator) -> Iterator[History]:
    """Cut a history into consecutive segments of at most ``length``, and leave out those without a target.

    A segment of one interaction is kept: it teaches the start token what users without history do. Segments are copies,
    so that the memory of the whole history can be freed.
    """
    start = 0
    end = len(history) if len(history) <= length else int(generator.integers(1, length + 1))
    while start < len(history):
        if (history.outcome[start:end] != NO_OUTCOME).any():
            yield history.take(np.arange(start, end))
        start, end = end, min(end + length, len(history))


def held_out_histories(sequences: Path, model: ModelConfig, training: TrainingConfig) -> list[History]:
    """The latest segments of a sample of ``validation_users`` users, from those who are held out for validation.

    Users whose latest segment has no target are left out.
    """
    if not (training.validation_users and training.evaluation_share):
        return []

    def wanted(user_id: int | str) -> bool:
        return is_evaluation_user(user_id, training.evaluation_share) and is_validation_user(user_id)

    def latest() -> Iterator[tuple[int, History]]:
        for user_id, history in iter_histories(sequences, keep_user=wanted):
            history = without_last(history, training.held_out_last)
            segment = np.arange(max(0, len(history) - longest_segment(model)), len(history))
            if (history.outcome[segment] != NO_OUTCOME).any():
                yield sampling_order(user_id), history.take(segment)

    return [history for _, history in heapq.nsmallest(training.validation_users, latest(), key=itemgetter(0))]


def training_batch(
    histories: Sequence[History], catalogue: ItemCatalogue, objective: ObjectiveConfig, generator: np.random.Generator
) -> TrainingBatch:
    """The histories as tensors, and R random items that are drawn uniformly with replacement."""
    drawn = generator.integers(0, len(catalogue), size=objective.random_negatives)
    return TrainingBatch(
        history=collate(histories),
        item_key=pad([h.item_key for h in histories]),
        outcome=pad([h.outcome for h in histories], fill=NO_OUTCOME).long(),
        random_key=torch.from_numpy(catalogue.item_key[drawn]),
        random_feature=torch.from_numpy(catalogue.feature[drawn]),
        random_scale=torch.from_numpy(catalogue.scale[drawn]),
    )


def prepare(draw: Draw, catalogue: ItemCatalogue, objective: ObjectiveConfig, seed: int, *key: int) -> PreparedBatch:
    """Make the tensors of a draw, with the random generator of ``key``."""
    generator = generator_of(seed, *key)
    return PreparedBatch(
        batch=training_batch(draw.histories, catalogue, objective, generator),
        lengths=[len(history) for history in draw.histories],
        share=draw.share,
        torch_seed=int(generator.integers(1 << 63)),
    )


def prefetch(items: Iterator[T], count: int) -> Generator[T, None, None]:
    """Yield the same items, but let another thread make up to ``count`` of them ahead of the caller."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        making = deque(thread.submit(next, items, None) for _ in range(count))
        while (item := making.popleft().result()) is not None:
            making.append(thread.submit(next, items, None))
            yield item
