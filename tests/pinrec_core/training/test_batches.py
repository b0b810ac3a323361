"""From sequences to batches: which users and interactions are trained on, and in which order."""

from __future__ import annotations

import tracemalloc
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pinrec_core.config.sections import TrainingConfig
from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.dataset.manifest import SEQUENCES
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.dataset.splits import is_evaluation_user, is_validation_user
from pinrec_core.history import NO_OUTCOME
from pinrec_core.training import batches
from pinrec_core.training.batches import epoch_batches, held_out_histories, prefetch, segments
from tests.pinrec_core.builders import random_history, tiny_config
from tests.pinrec_core.training.small_training import EVALUATION_SHARE

TRAINING = TrainingConfig(evaluation_share=EVALUATION_SHARE, batch_users=5)
MODEL = tiny_config(max_history=16, max_steps=8)
LONGEST = 23  # interactions that fill the decoder's 1 + 16 + 8 − 1 positions


def draws(dataset, training=TRAINING, *, epoch=0, **processes):
    num_users = BatchInfo.load(dataset / SEQUENCES).num_users
    return list(epoch_batches(dataset / SEQUENCES, MODEL, training, num_users=num_users, epoch=epoch, **processes))


def interactions(passed) -> list[tuple[int, int]]:
    """The time and item of all interactions, sorted. These pairs are distinct, even across users."""
    return sorted(
        pair
        for draw in passed
        for history in draw.histories
        for pair in zip(history.timestamp.tolist(), history.item_key.tolist(), strict=True)
    )


def expected_interactions(dataset, *, without: int = 0) -> list[tuple[int, int]]:
    return sorted(
        pair
        for user, history in iter_histories(dataset / SEQUENCES)
        if not is_evaluation_user(user, EVALUATION_SHARE)
        for pair in list(zip(history.timestamp.tolist(), history.item_key.tolist(), strict=True))[
            : len(history) - without
        ]
    )


def test_an_epoch_is_every_interaction_of_the_users_that_are_not_held_out(dataset):
    passed = draws(dataset)
    assert interactions(passed) == expected_interactions(dataset)
    assert passed[-1].share == pytest.approx(1.0)
    assert [draw.batch for draw in passed] == list(range(len(passed)))


def test_the_last_interactions_of_every_user_are_left_out(dataset):
    passed = draws(dataset, TrainingConfig(evaluation_share=EVALUATION_SHARE, batch_users=5, held_out_last=2))
    assert interactions(passed) == expected_interactions(dataset, without=2)


def test_memory_does_not_grow_with_the_number_of_users(dataset, tmp_path, monkeypatch):
    """In memory are one shuffle buffer, one batch of rows and the open pages of a file."""
    monkeypatch.setattr(batches, "SHUFFLE_BUFFER", 64)
    table = pa.concat_tables(pq.read_table(part) for part in sorted((dataset / SEQUENCES).glob("part-*.parquet")))
    most = []
    for times in (2, 16):
        folder = tmp_path / str(times)
        folder.mkdir()
        pq.write_table(pa.concat_tables([table] * times), folder / "part-0.parquet", row_group_size=64)
        arrow = pa.total_allocated_bytes()
        tracemalloc.start()
        peak_arrow = 0
        for _ in epoch_batches(folder, MODEL, TRAINING, num_users=times * len(table), epoch=0):
            peak_arrow = max(peak_arrow, pa.total_allocated_bytes() - arrow)
        most.append(tracemalloc.get_traced_memory()[1] + peak_arrow)
        tracemalloc.stop()
    assert most[1] < 1.5 * most[0]  # not 1, because the footer of a file grows with its row groups


def test_processes_share_the_users_out(dataset):
    parts = [interactions(draws(dataset, process=process, num_processes=3)) for process in range(3)]
    assert sorted(chain.from_iterable(parts)) == expected_interactions(dataset)
    assert min(map(len, parts)) > 0.5 * max(map(len, parts))


def test_the_order_is_a_function_of_seed_and_epoch(dataset, monkeypatch):
    monkeypatch.setattr(batches, "SHUFFLE_BUFFER", 40)  # so that it is filled several times per pass

    def order(**which):
        return [history.timestamp.tolist() for draw in draws(dataset, **which) for history in draw.histories]

    assert order(epoch=3) == order(epoch=3)
    assert order(epoch=3) != order(epoch=4)
    other = TrainingConfig(evaluation_share=EVALUATION_SHARE, batch_users=5, seed=1)
    assert order(epoch=3) != order(training=other, epoch=3)
    assert interactions(draws(dataset, epoch=3)) == expected_interactions(dataset)


def test_segments_fill_the_decoder(dataset):
    """The positions of generated tokens are trained only by segments that reach them."""
    lengths = [len(history) for epoch in range(3) for draw in draws(dataset, epoch=epoch) for history in draw.histories]
    assert max(lengths) == LONGEST == MODEL.max_positions - 1


def test_segments_cover_a_history_without_overlap():
    history = random_history(100, 0)
    parts = list(segments(history, 24, np.random.default_rng(3)))
    assert max(len(p) for p in parts) <= 24
    joined = np.concatenate([p.item_key for p in parts])
    assert len(joined) >= 98
    assert np.isin(joined, history.item_key).all()
    assert len(np.unique(joined)) == len(joined)


def test_a_segment_needs_a_target_and_one_interaction_is_enough():
    generator = np.random.default_rng(0)
    click, query = random_history(1, 0, queries=False), random_history(3, 0)
    query.outcome[:] = NO_OUTCOME
    assert [len(s) for s in segments(click, 8, generator)] == [1]
    assert list(segments(query, 8, generator)) == []


def test_a_segment_does_not_keep_what_it_was_cut_from():
    history = random_history(50, 0)
    for segment in segments(history, 8, np.random.default_rng(0)):
        assert not any(
            np.shares_memory(getattr(segment, name), getattr(history, name)) for name in ("feature", "scale")
        )


def test_the_share_of_a_pass_grows_with_every_batch_of_a_log_that_fits_the_buffer(dataset):
    """The learning rate follows the share. With a single value for the whole pass there would be no warm-up."""
    share = [draw.share for draw in draws(dataset)]
    assert len(share) > 10
    np.testing.assert_allclose(np.diff(share), 1 / len(share))
    assert share[-1] == pytest.approx(1.0)


def test_validation_sees_held_out_users_alone_and_never_their_last_interactions(dataset):
    training = TrainingConfig(evaluation_share=EVALUATION_SHARE, held_out_last=1, validation_users=7)
    found = held_out_histories(dataset / SEQUENCES, MODEL, training)
    expected = [
        history.timestamp[:-1][-LONGEST:].tolist()
        for user, history in iter_histories(dataset / SEQUENCES)
        if is_evaluation_user(user, EVALUATION_SHARE) and is_validation_user(user)
    ]
    got = [history.timestamp.tolist() for history in found]
    assert len(got) == 7
    assert all(timestamps in expected for timestamps in got)
    assert got != expected[:7]  # a sample, and not the first users of the file
    assert held_out_histories(dataset / SEQUENCES, MODEL, TrainingConfig(evaluation_share=0.0)) == []


def test_what_is_made_ahead_comes_in_order_and_its_errors_come_too():
    made: list[int] = []

    def items():
        for number in range(5):
            made.append(number)
            yield number
        raise OSError("the disk is gone")

    batches = prefetch(items(), 2)
    assert next(batches) == 0
    assert len(made) <= 4  # the one taken, two ahead, and one in the making
    assert [next(batches) for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert list(prefetch(iter([]), 2)) == []
