"""Opens a real-time store where it is: in a folder (RocksDB), or on servers that speak the Redis protocol."""

from __future__ import annotations

from pathlib import Path

from pinrec_core.store_location import StoreLocation, store_location
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Durability, EventReader, EventStore


def open_writer(location: StoreLocation, *, durability: Durability = Durability.PROCESS) -> EventStore:
    """The store, for writing; a folder is created. Raises ``StoreError``, and ``ConfigError`` for a malformed location.

    On the Redis protocol the server decides how durable an event is. With ``DISK`` it is asked whether it keeps that.
    """
    place = store_location(str(location))
    if isinstance(place, Path):
        return RocksDbEventStore.open_primary(place, durability=durability)
    # Imported here and below, so that who keeps events in a folder needs no client of another store.
    from signal_service.redis_store import RedisEventStore

    return RedisEventStore.open(place, durability=durability)


def open_reader(location: StoreLocation) -> EventReader:
    """The store, for reading what a request waits for: a server that takes long to answer counts as away.

    Raises ``StoreError`` while there is no store, ``ConfigError`` for a malformed location.
    """
    place = store_location(str(location))
    if isinstance(place, Path):
        return RocksDbEventStore.open_secondary(place)
    from signal_service.redis_nodes import READING
    from signal_service.redis_store import RedisEventStore

    return RedisEventStore.open(place, options=READING)
