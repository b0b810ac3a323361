"""Opens a real-time store where it is: in a folder (RocksDB), or on servers that speak the Redis protocol."""

from __future__ import annotations

from pathlib import Path

from pinrec_core.store_location import StoreLocation, store_location
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Durability, EventReader, EventStore


def open_writer(location: StoreLocation, *, durability: Durability = Durability.PROCESS) -> EventStore:
    """The store, for writing; a folder is created. Raises ``StoreError``, and ``ConfigError`` for a malformed location.

    On the Redis protocol the server decides how durable an event is (``appendfsync``), and ``durability`` says nothing.
    """
    place = store_location(str(location))
    if isinstance(place, Path):
        return RocksDbEventStore.open_primary(place, durability=durability)
    return _open_redis(place)


def open_reader(location: StoreLocation) -> EventReader:
    """The store, for reading. Raises ``StoreError`` while there is none, ``ConfigError`` for a malformed location."""
    place = store_location(str(location))
    return RocksDbEventStore.open_secondary(place) if isinstance(place, Path) else _open_redis(place)


def _open_redis(location: str) -> EventStore:
    # Imported here, so that who keeps events in a folder needs no client of another store.
    from signal_service.redis_store import RedisEventStore

    return RedisEventStore.open(location)
