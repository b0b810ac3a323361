"""A store is opened where its location says."""

from __future__ import annotations

import importlib.util
from contextlib import closing

import pytest

from pinrec_core.errors import ConfigError, StoreError
from signal_service.event_stores import open_reader, open_writer
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Durability, Span
from tests.signal_service.test_rocksdb_store import event


@pytest.mark.parametrize("durability", Durability)
@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_folder(tmp_path, kind, durability):
    location = kind(tmp_path / "realtime")
    writer = open_writer(location, durability=durability)
    reader = open_reader(location)
    writer.append([event("a", 5)])
    reader.refresh()
    (found,) = reader.read([Span(user_key=b"u", since=0, until=10, limit=10)])
    assert found.events == [event("a", 5)]
    assert isinstance(reader, RocksDbEventStore)
    writer.close()
    reader.close()


def test_a_malformed_location_opens_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for location in ("", "http://host", "redis://:secret@host"):
        for opened in (open_reader, open_writer):
            with pytest.raises(ConfigError, match="realtime"):
                opened(location)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    importlib.util.find_spec("signal_service.redis_store") is None, reason="this checkout has no store on Redis"
)
def test_a_server_that_is_not_there_is_a_store_that_cannot_be_read():
    def use() -> None:
        with closing(open_reader("redis://127.0.0.1:1/0")) as store:
            store.read([Span(user_key=b"u", since=0, until=10, limit=10)])

    with pytest.raises(StoreError):
        use()
