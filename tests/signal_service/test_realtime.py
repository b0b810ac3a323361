"""Serving works without the real-time store and uses it again when it is back."""

from __future__ import annotations

import logging
import shutil

from pinrec_core.history import ItemType
from signal_service.realtime import RealtimeSource
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Event, Span, UserEvents

ALL = [Span(user_key=b"u", since=0, until=100, limit=10)]
EVENT = Event(
    event_id="a", user_key=b"u", item_key=1, item_type=ItemType.PIN, action="save", surface="home", timestamp=5
)


def test_absent_then_there(tmp_path, caplog):
    now = [0.0]
    tries = []

    def open_reader() -> RocksDbEventStore:
        tries.append(now[0])
        return RocksDbEventStore.open_secondary(tmp_path / "realtime")

    source = RealtimeSource(open_reader, retry_seconds=5, monotonic=lambda: now[0])
    with caplog.at_level(logging.WARNING):
        for now[0] in (0.0, 1.0, 4.9, 5.0, 6.0):
            source.refresh()
            assert source.read(ALL) == [UserEvents()]
    assert tries == [0.0, 5.0]
    assert len(caplog.records) == 1
    assert "serving from the batch signals alone" in caplog.text

    with RocksDbEventStore.open_primary(tmp_path / "realtime") as store:
        store.append([EVENT])
        source.refresh()
        assert source.read(ALL) == [UserEvents()]  # it is too early to open the store again
        now[0] = 11.0
        source.refresh()
        assert source.read(ALL) == [UserEvents([EVENT])]
    assert "the real-time store is back" in caplog.text
    source.close()


def test_a_store_that_vanishes_is_not_an_error(tmp_path, caplog):
    now = [0.0]
    path = tmp_path / "realtime"
    with RocksDbEventStore.open_primary(path) as store:
        store.append([EVENT])
    source = RealtimeSource(lambda: RocksDbEventStore.open_secondary(path), monotonic=lambda: now[0])
    source.refresh()
    assert source.read(ALL) == [UserEvents([EVENT])]
    shutil.rmtree(path)
    source.refresh()
    assert source.read(ALL) == [UserEvents()]
    with RocksDbEventStore.open_primary(path) as store:
        store.append([EVENT])
        now[0] = 6.0
        source.refresh()
        assert source.read(ALL) == [UserEvents([EVENT])]
    source.close()
