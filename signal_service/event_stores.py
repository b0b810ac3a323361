"""Opens a real-time store where it is: in a folder (RocksDB), or on servers that speak the Redis protocol."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from pinrec_core.errors import StoreError
from pinrec_core.store_location import StoreLocation, store_location
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Durability, EventReader, EventStore


def open_writer(location: StoreLocation, *, durability: Durability = Durability.PROCESS) -> EventStore:
    """The store, for writing; a folder is created. Raises ``StoreError``, and ``ConfigError`` for a malformed location.

    On the Redis protocol the server decides how durable an event is (``appendfsync``). Where that is less than
    ``durability`` asks for, the store is not opened.
    """
    place = store_location(str(location))
    if isinstance(place, Path):
        return RocksDbEventStore.open_primary(place, durability=durability)
    return _open_redis(place, durability)


def open_reader(location: StoreLocation) -> EventReader:
    """The store, for reading. Raises ``StoreError`` while there is none, ``ConfigError`` for a malformed location."""
    place = store_location(str(location))
    return (
        RocksDbEventStore.open_secondary(place) if isinstance(place, Path) else _open_redis(place, Durability.PROCESS)
    )


def forgotten_users(location: StoreLocation) -> dict[bytes, int]:
    """Who asked to be forgotten, by store key, with the time up to which. Raises as ``open_reader``."""
    with closing(open_reader(location)) as store:
        store.refresh()
        return dict(store.forgotten())


def _open_redis(location: str, durability: Durability) -> EventStore:
    # Imported here, so that who keeps events in a folder needs no client of another store.
    try:
        from signal_service.redis_store import RedisEventStore
    except ModuleNotFoundError as error:
        raise StoreError(f"{error.name} is not installed: expected the extra `redis` of pinrec-on-triton") from error
    return RedisEventStore.open(location, durability=durability)
