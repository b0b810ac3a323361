"""Answers say what their histories are based on, and no request fails for a part that cannot be read."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from rocksdict import Options, Rdict

from pinrec_core.history import ItemType
from pinrec_core.request import Request
from pinrec_core.stages.base import run_batch
from signal_service import fetch_stage
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Event
from tests.signal_service.builders import EVENTS, expected_sequences
from tests.signal_service.fetching import make_stage, request, sources, unpacked

pytestmark = pytest.mark.spark


def test_an_answer_says_where_the_history_comes_from(signals, catalogue, tmp_path):
    realtime = tmp_path / "realtime"
    user, new = ((number + (1 << 63)).to_bytes(8, "big") for number in (7, 999))
    pin = {"item_type": ItemType.PIN, "surface": "home", "action": "save", "item_key": 101, "timestamp": 1_070}
    with RocksDbEventStore.open_primary(realtime) as store:
        store.append([Event(event_id="e", user_key=key, **pin) for key in (user, new)])
        with_store, without = make_stage(signals, catalogue, realtime=realtime), make_stage(signals, catalogue)
        asked = [request(7), request(42), request(999), request(998)]
        assert [sources(answer) for answer in run_batch(with_store, asked)] == [
            ("both", ""), ("batch", ""), ("realtime", ""), ("none", ""),
        ]  # fmt: skip
        assert [sources(answer) for answer in run_batch(without, asked[1:])] == [
            ("batch", ""), ("none", ""), ("none", ""),
        ]  # fmt: skip


def test_a_store_that_is_not_there_is_named_in_the_answer(signals, catalogue, tmp_path):
    stage = make_stage(signals, catalogue, realtime=tmp_path / "absent")
    answers = run_batch(stage, [request(7), request(998)])
    assert [sources(answer) for answer in answers] == [("batch", "realtime"), ("none", "realtime")]


def test_a_damaged_batch_history_fails_nobody(signals, catalogue):
    with closing(Rdict(str(signals / "batch" / "users"), Options(raw_mode=True))) as database:
        database[(7 + (1 << 63)).to_bytes(8, "big")] = b"nothing that was encoded"
    damaged, neighbour = run_batch(make_stage(signals, catalogue), [request(7), request(42)])
    assert sources(damaged) == ("none", "batch")
    assert len(damaged["history_item_key"]) == 0
    assert sources(neighbour) == ("batch", "")
    assert neighbour["history_item_key"].tolist() == [row[0] for row in expected_sequences(EVENTS, end=1050)[42]]


def test_a_corrupt_block_of_the_batch_view_fails_nobody(signals, catalogue, caplog):
    tables = sorted((signals / "batch" / "users").glob("*.sst"))
    assert tables
    for table in tables:
        content = bytearray(table.read_bytes())
        for place in range(0, len(content) // 2, 64):  # the data; index and filter are behind it
            content[place] ^= 0xFF
        table.write_bytes(content)
    answers = run_batch(make_stage(signals, catalogue), [request(user) for user in (-3, 7, 42, 99)])
    assert ("none", "batch") in [sources(answer) for answer in answers]
    assert "without their batch part" in caplog.text


def test_an_unforeseen_error_of_one_row_leaves_its_neighbours_unharmed(signals, catalogue, monkeypatch):
    stage = make_stage(signals, catalogue)
    expected = [unpacked(answer) for answer in run_batch(stage, [request(7), request(42)])]
    encode = fetch_stage.encode_request

    def fails_for_one(resolved: Request) -> np.ndarray:
        if resolved.seed == 13:
            raise ZeroDivisionError
        return encode(resolved)

    monkeypatch.setattr(fetch_stage, "encode_request", fails_for_one)
    first, failed, last = run_batch(stage, [request(7), request(7, seed=13), request(42)])
    assert str(failed) == "internal error (ZeroDivisionError)"
    for answer, before in zip((first, last), expected, strict=True):
        np.testing.assert_array_equal(unpacked(answer)["history_timestamp"], before["history_timestamp"])
