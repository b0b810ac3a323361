"""Opens a real-time store where it is: in a folder (RocksDB), or on servers that speak the Redis protocol."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from types import ModuleType

from pinrec_core.errors import ConfigError
from pinrec_core.store_location import StoreLocation, store_location
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Durability, EventReader, EventStore


def open_writer(location: StoreLocation, *, durability: Durability = Durability.PROCESS) -> EventStore:
    """The store, for writing; a folder is created. Raises ``StoreError``, and ``ConfigError`` for a malformed location.

    On the Redis protocol the server decides how durable an event is. With ``DISK`` it is asked whether it keeps that,
    and where it does not, the store is not opened.
    """
    place = store_location(str(location))
    if isinstance(place, Path):
        return RocksDbEventStore.open_primary(place, durability=durability)
    return _redis_store().RedisEventStore.open(place, durability=durability)


def open_reader(location: StoreLocation) -> EventReader:
    """The store, for reading what a request waits for: a server that takes long to answer counts as away.

    Raises ``StoreError`` while there is no store, ``ConfigError`` for a malformed location.
    """
    place = store_location(str(location))
    if isinstance(place, Path):
        return RocksDbEventStore.open_secondary(place)
    store = _redis_store()  # first, because it says what is missing
    from signal_service.redis_nodes import READING

    return store.RedisEventStore.open(place, options=READING)


def forgotten_users(location: StoreLocation) -> dict[bytes, int]:
    """Who asked to be forgotten, by store key, with the time up to which. Raises as ``open_reader``.

    Nobody waits for it, so a server may take its time.
    """
    place = store_location(str(location))
    opened = (
        RocksDbEventStore.open_secondary(place)
        if isinstance(place, Path)
        else _redis_store().RedisEventStore.open(place)
    )
    with closing(opened) as store:
        store.refresh()
        return dict(store.forgotten())


def _redis_store() -> ModuleType:
    # Imported here, so that who keeps events in a folder needs no client of another store.
    try:
        from signal_service import redis_store
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: expected the extra `redis` of pinrec-on-triton") from error
    return redis_store
