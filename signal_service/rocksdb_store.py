"""The real-time store on RocksDB.

One process opens it for writing (the *primary*). Any number of others open it as *secondaries*: they read the primary's
write-ahead log, so they see an event as soon as ``append`` has returned in the primary.

What bounds it: two write buffers of 64 MiB; while neither can take a write, because the disk is slower than the
writers, RocksDB lets ``append`` wait. The log is cut whenever a buffer has been written out. What a batch holds is
removed (``signal_service.expiry``), so the files hold the events since then.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from rocksdict import AccessType, BlockBasedOptions, Options, Rdict, WriteBatch, WriteOptions

from pinrec_core.errors import StoreError
from pinrec_core.files.temporary_folder import TemporaryFolder
from signal_service.event_codec import (
    TOMBSTONES,
    after_user,
    decode_event,
    decode_tombstone,
    event_key,
    event_value,
    range_start,
    tombstone_key,
    tombstone_value,
    user_of,
)
from signal_service.store import Durability, Event, Span, UserEvents

SECONDARY_PREFIX = "pinrec-reader-"
LOCKED = ("While lock file", "lock hold by current process")
"""Parts of RocksDB's messages about a store that a primary holds, in another process or in this one."""
BUFFER_BYTES, BUFFERS = 64 << 20, 2
USERS_PER_SCAN = 1024
"""After so many users a scan of all of them begins anew at its place, because a scan keeps replaced files on disk."""
FIRST_TIME = -(1 << 63)


class RocksDbEventStore:
    """An ``EventStore``. ``open_primary`` opens it for writing, ``open_secondary`` for reading only.

    Every write goes through the write-ahead log. Threads may share it, as long as none uses it any more when it is
    closed.
    """

    def __init__(self, database: Rdict, path: Path, *, private: TemporaryFolder | None, durability: Durability) -> None:
        self._database: Rdict | None = database
        self._path = path
        self._private = private  # a folder that only this secondary uses; None for the primary
        if private is not None:  # so that the folder is removed even if nobody closes the reader
            weakref.finalize(self, private.close)
        self._caught_up_with: frozenset[tuple[str, int]] | None = None
        self._append_options = WriteOptions()
        self._append_options.sync = durability is Durability.DISK
        self._forget_options = WriteOptions()
        self._forget_options.sync = True
        self._any_forgotten = next(self.forgotten(), None) is not None

    @staticmethod
    def open_primary(path: Path, *, durability: Durability = Durability.PROCESS) -> RocksDbEventStore:
        """Open for writing; a missing store is created. Raises ``StoreError``, e.g. when another process holds it."""
        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path}: expected a folder for the real-time store ({error.strerror})") from error
        with _as_store_error(f"{path}: cannot be opened for writing"):
            database = Rdict(str(path), _options(create=True))
        return RocksDbEventStore(database, path, private=None, durability=durability)

    @staticmethod
    def open_secondary(path: Path) -> RocksDbEventStore:
        """Open for reading beside a primary in another process. Raises ``StoreError`` while there is no store."""
        path = Path(path)
        if not (path / "CURRENT").is_file():  # checked here, because RocksDB would create folders before it fails
            raise StoreError(f"{path}: expected a real-time store; `signal_ingest` creates it when it starts")
        private = TemporaryFolder(SECONDARY_PREFIX)  # two secondaries must not share one
        try:
            with _as_store_error(f"{path}: cannot be opened for reading"):
                access = AccessType.secondary(str(private.path))
                database = Rdict(str(path), _options(create=False), access_type=access)
        except StoreError:
            private.close()
            raise
        return RocksDbEventStore(database, path, private=private, durability=Durability.PROCESS)

    def append(self, events: Sequence[Event]) -> None:
        """One atomic write, and one fsync where the store was opened with ``DISK``. See ``EventStore``.

        An event of a forgotten time is not even stored.
        """
        self._require_primary()
        batch = WriteBatch(raw_mode=True)
        forgotten: dict[bytes, int | None] = {}
        for event in events:
            key, value = event_key(event), event_value(event)
            if self._any_forgotten:
                if event.user_key not in forgotten:
                    forgotten[event.user_key] = self._forgotten_at(event.user_key)
                at = forgotten[event.user_key]
                if at is not None and event.timestamp <= at:
                    continue
            batch[key] = value
        self._write(batch, self._append_options, "the events cannot be stored")

    def remove(self, events: Sequence[Event]) -> None:
        """One atomic write. It is not waited for: events that come back after a crash are removed another time."""
        self._require_primary()
        batch = WriteBatch(raw_mode=True)
        for event in events:
            batch.delete(event_key(event))
        self._write(batch, WriteOptions(), "the events cannot be removed")

    def forget(self, user_key: bytes, *, at: int) -> None:
        """One atomic write of constant size, however many events the user has, and one fsync. See ``EventStore``.

        RocksDB takes the bytes of the events from the disk when it next compacts the files that they are in.
        """
        self._require_primary()
        before = self._forgotten_at(user_key)
        at = at if before is None else max(at, before)
        batch = WriteBatch(raw_mode=True)
        batch[tombstone_key(user_key)] = tombstone_value(at)
        batch.delete_range(range_start(user_key, FIRST_TIME), range_start(user_key, at + 1))
        self._any_forgotten = True  # before the write, so that an append in another thread looks for it
        self._write(batch, self._forget_options, "the user cannot be forgotten")

    def refresh(self) -> None:
        """See ``EventReader``. The primary always sees its own writes.

        Catching up takes RocksDB almost a millisecond even when nothing is new. So this first compares the sizes of the
        log files, one of which every append increases.
        """
        if self._private is None:
            return
        with _as_store_error("the real-time store cannot be followed"):
            logs = _log_sizes(self._path)  # taken before catching up, so that a later append is noticed next time
            if logs != self._caught_up_with:
                self._open.try_catch_up_with_primary()
                self._caught_up_with = logs

    def read(self, spans: Sequence[Span]) -> list[UserEvents]:
        """For each span one look-up and one backward range scan of at most ``limit`` events. See ``EventReader``."""
        return [self._read(span) for span in spans]

    def _read(self, span: Span) -> UserEvents:
        at = self._forgotten_at(span.user_key)
        since = span.since if at is None else max(span.since, at + 1)
        lower, upper = range_start(span.user_key, since), range_start(span.user_key, span.until)
        if span.limit <= 0 or lower >= upper:
            return UserEvents((), at)
        newest_first: list[Event] = []
        with _as_store_error("the real-time store cannot be read"):
            scan = cast(Iterable[tuple[bytes, bytes]], self._open.items(backwards=True, from_key=upper))
            for key, value in scan:  # begins at the last key that is not above upper
                if key < lower or len(newest_first) == span.limit:
                    break
                newest_first.append(decode_event(key, value))
        return UserEvents(newest_first[::-1], at)

    def user_keys(self) -> Iterator[bytes]:
        """One seek per user, however many events there are. See ``EventReader``."""
        start = b""
        while True:
            users: list[bytes] = []
            with _as_store_error("the real-time store cannot be read"):
                scan = self._open.iter()
                scan.seek(start)
                while scan.valid() and not scan.key().startswith(TOMBSTONES) and len(users) < USERS_PER_SCAN:
                    users.append(user_of(scan.key()))
                    start = after_user(users[-1])
                    scan.seek(start)
                scan.status()  # an error ends a scan, too
            if not users:
                return
            yield from users

    def forgotten(self) -> Iterator[tuple[bytes, int]]:
        """See ``EventReader``."""
        start = TOMBSTONES
        while True:
            found: list[tuple[bytes, int]] = []
            with _as_store_error("the real-time store cannot be read"):
                scan = self._open.iter()
                scan.seek(start)
                while scan.valid() and len(found) < USERS_PER_SCAN:
                    key = scan.key()
                    found.append((key[len(TOMBSTONES) :], decode_tombstone(scan.value())))
                    start = key + b"\x00"
                    scan.next()
                scan.status()
            if not found:
                return
            yield from found

    def _forgotten_at(self, user_key: bytes) -> int | None:
        with _as_store_error("the real-time store cannot be read"):
            value = self._open.get(tombstone_key(user_key))
        return None if value is None else decode_tombstone(value)

    def _require_primary(self) -> None:
        if self._private is not None:
            raise StoreError("this store is open for reading: expected the primary")

    def _write(self, batch: WriteBatch, options: WriteOptions, failure: str) -> None:
        if not batch.is_empty():
            with _as_store_error(failure):
                self._open.write(batch, options)

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._private is not None:
            self._private.close()

    def __enter__(self) -> RocksDbEventStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _open(self) -> Rdict:
        if self._database is None:
            raise StoreError("the real-time store is closed")
        return self._database


def _options(*, create: bool) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(create)
    options.set_max_open_files(-1)  # a secondary must keep files open that the primary deletes after a compaction
    options.set_write_buffer_size(BUFFER_BYTES)
    options.set_max_write_buffer_number(BUFFERS)
    options.set_max_total_wal_size(2 * BUFFERS * BUFFER_BYTES)
    options.set_keep_log_file_num(4)
    options.set_max_log_file_size(4 << 20)
    tables = BlockBasedOptions()
    tables.set_bloom_filter(10, False)
    options.set_block_based_table_factory(tables)
    return options


def _log_sizes(path: Path) -> frozenset[tuple[str, int]]:
    """The name and size of every write-ahead log and manifest."""
    with os.scandir(path) as entries:
        logs = [e for e in entries if e.name.endswith(".log") or e.name.startswith("MANIFEST-")]
        return frozenset((e.name, e.stat().st_size) for e in logs)


@contextmanager
def _as_store_error(sentence: str) -> Iterator[None]:
    """Turns RocksDB's errors, which rocksdict raises as plain ``Exception``, into ``StoreError``."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        if any(words in str(error) for words in LOCKED):
            raise StoreError(f"{sentence}: another process writes to it, and a store has one writer") from error
        raise StoreError(f"{sentence}: {error}") from error
