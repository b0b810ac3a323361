"""Sequences are read as they were written, in batches of bounded size, and damage is named. Splits are stable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.dataset.splits import is_evaluation_user, is_validation_user, sampling_order, without_last
from pinrec_core.errors import DataError
from pinrec_core.history import DTYPES, NO_OUTCOME, History

F = 6
INFO = BatchInfo(
    end_time=10, feature_space="x", outcomes=("save",), surfaces=("", "home"), num_users=2, num_interactions=3
)


def a_history(T: int, seed: int) -> History:
    rng = np.random.default_rng(seed)
    shape = {"feature": (T, F)}
    return History(**{n: rng.integers(0, 100, shape.get(n, T)).astype(dtype) for n, dtype in DTYPES.items()})


def write_part(path: Path, users: list, histories: list[History], **changes: pa.Array) -> None:
    columns: dict = {"user_id": pa.array(users)}
    for name, dtype in DTYPES.items():
        if name == "feature":
            columns[name] = pa.array([[bytes(row) for row in h.feature] for h in histories], pa.list_(pa.binary()))
        else:
            stored = pa.int8() if name == "item_type" else pa.from_numpy_dtype(dtype)  # as Spark stores a byte
            columns[name] = pa.array([getattr(h, name).tolist() for h in histories], pa.list_(stored))
    pq.write_table(pa.table(columns | changes), path)


def test_queries_do_not_count_among_the_interactions_that_are_left_out():
    """Otherwise a training would keep items that leave-one-out asks for wherever a user searched last."""
    history = a_history(6, seed=0)
    history.outcome[:] = [1, NO_OUTCOME, 0, 2, NO_OUTCOME, NO_OUTCOME]
    kept = {count: len(without_last(history, count)) for count in range(5)}
    assert kept == {0: 6, 1: 3, 2: 2, 3: 0, 4: 0}


@pytest.mark.parametrize(
    ("column", "type_", "message"),
    [
        ("timestamp", pa.float64(), r"timestamp is list<\w+: double>: expected a list of numbers that fit int64"),
        ("timestamp", pa.timestamp("us"), r"timestamp is list<.*timestamp\[us\]>: expected a list of numbers"),
        ("scale", pa.int32(), r"scale is list<.*int32>: expected a list of numbers that fit float32"),
    ],
)
def test_values_of_another_kind_are_refused_not_reinterpreted(tmp_path, column, type_, message):
    write_part(tmp_path / "part-0.parquet", [1], [a_history(2, 0)], **{column: pa.array([[1, 2]], pa.list_(type_))})
    with pytest.raises(DataError, match=message):
        list(iter_histories(tmp_path))


@pytest.mark.parametrize("users", [[5, -6, 7, 8, 9], ["a", "b", "c", "d", "ü"]])
@pytest.mark.parametrize("batch_users", [1, 2, 64])
def test_reads_what_was_written(tmp_path, users, batch_users):
    histories = [a_history(T, seed=T) for T in (3, 1, 8, 2, 5)]
    write_part(tmp_path / "part-0.parquet", users[:3], histories[:3])
    write_part(tmp_path / "part-1.parquet", users[3:], histories[3:])
    read = list(iter_histories(tmp_path, batch_users=batch_users))
    assert [user for user, _ in read] == users
    for (_, got), expected in zip(read, histories, strict=True):
        for name in DTYPES:
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))


def test_keeps_the_users_asked_for(tmp_path):
    write_part(tmp_path / "part-0.parquet", [1, 2, 3], [a_history(2, s) for s in range(3)])
    assert [user for user, _ in iter_histories(tmp_path, keep_user=lambda user: user != 2)] == [1, 3]


def test_arrays_are_views_of_the_batch(tmp_path):
    write_part(tmp_path / "part-0.parquet", [1, 2], [a_history(2, s) for s in range(2)])
    (_, first), (_, second) = iter_histories(tmp_path)
    for history in (first, second):
        assert not history.feature.flags.owndata
        assert not history.item_key.flags.owndata


def test_damage_is_named(tmp_path):
    with pytest.raises(
        DataError, match=r"expected part-\*\.parquet files; run `pinrec prepare` without --skip-signals"
    ):
        list(iter_histories(tmp_path))
    part = tmp_path / "part-0.parquet"
    two = [a_history(2, s) for s in range(2)]
    write_part(part, [1, 2], two, timestamp=pa.array([[1, 2], [3]]))
    with pytest.raises(DataError, match="timestamp and item_key differ in length"):
        list(iter_histories(tmp_path))
    write_part(part, [1, 2], two, scale=pa.array([[1.0, None], [1.0, 2.0]], pa.list_(pa.float32())))
    with pytest.raises(DataError, match="scale holds 1 nulls"):
        list(iter_histories(tmp_path))
    write_part(part, [1, 2], two, feature=pa.array([[b"123456", b"1"], [b"123456"] * 2]))
    with pytest.raises(DataError, match=r"features of \[1, 6\] bytes: expected one width"):
        list(iter_histories(tmp_path))
    pq.write_table(pa.table({"user_id": [1]}), part)
    with pytest.raises(DataError, match=r"columns .* are missing"):
        list(iter_histories(tmp_path))


def test_batch_info_round_trip(tmp_path):
    INFO.save(tmp_path)
    assert BatchInfo.load(tmp_path) == INFO


def test_batch_info_that_is_not_one(tmp_path):
    with pytest.raises(DataError, match="run `pinrec prepare` without --skip-signals"):
        BatchInfo.load(tmp_path)
    INFO.save(tmp_path)
    raw = json.loads((tmp_path / "batch.json").read_text())
    for broken, message in [
        (raw | {"more": 1}, r"BatchInfo keys=\[\'more\'\]: expected only"),
        (raw | {"end_time": "10"}, "end_time='10': expected a whole number"),
        (raw | {"num_users": -1}, "num_users=-1: expected a value of at least 0"),
    ]:
        (tmp_path / "batch.json").write_text(json.dumps(broken))
        with pytest.raises(DataError, match=message):
            BatchInfo.load(tmp_path)
    (tmp_path / "batch.json").write_text("{")
    with pytest.raises(DataError, match="expected the description of a batch as JSON"):
        BatchInfo.load(tmp_path)


@given(st.integers(-(2**63), 2**63 - 1), st.floats(0, 1), st.floats(0, 1))
def test_evaluation_split_is_stable(user_id, share, other):
    assert is_evaluation_user(user_id, share) == is_evaluation_user(str(user_id), share)
    assert is_evaluation_user(np.int64(user_id), share) == is_evaluation_user(user_id, share)
    assert not is_evaluation_user(user_id, 0.0)
    assert is_evaluation_user(user_id, 1.0)
    if is_evaluation_user(user_id, min(share, other)):
        assert is_evaluation_user(user_id, max(share, other))  # a larger share only adds users


def test_evaluation_split_has_the_share_asked_for():
    held_out = sum(is_evaluation_user(user_id, 0.1) for user_id in range(20_000))
    assert abs(held_out - 2_000) < 5 * (20_000 * 0.1 * 0.9) ** 0.5  # five standard deviations
    # Fixed for good: releases compare.
    assert [user_id for user_id in range(40) if is_evaluation_user(user_id, 0.1)] == [1, 3, 17, 22, 27]


def test_a_quarter_of_the_held_out_users_is_for_validation():
    held_out = [user_id for user_id in range(40_000) if is_evaluation_user(user_id, 0.1)]
    expected = len(held_out) / 4
    assert abs(sum(map(is_validation_user, held_out)) - expected) < 5 * (expected * 0.75) ** 0.5
    assert is_validation_user(7) == is_validation_user("7")


def test_the_order_of_a_sample_is_not_that_of_the_ids():
    order = sorted(range(20_000), key=sampling_order)
    assert abs(np.mean(order[:2_000]) - 10_000) < 5 * 20_000 / 12**0.5 / 2_000**0.5  # of a uniform draw
    assert sampling_order(7) == sampling_order("7")
