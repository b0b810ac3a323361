"""The real-time store on RocksDB.

One process opens it for writing (the *primary*). Any number of others open it as *secondaries*: they read the primary's
write-ahead log, so they see an event as soon as ``append`` has returned in the primary.
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
from signal_service.event_codec import decode_event, event_key, event_value, range_start
from signal_service.store import Event, Span, UserEvents

SECONDARY_PREFIX = "pinrec-reader-"
LOCKED = ("While lock file", "lock hold by current process")
"""Parts of RocksDB's messages about a store that a primary holds, in another process or in this one."""


class RocksDbEventStore:
    """An ``EventStore``. ``open_primary`` opens it for writing, ``open_secondary`` for reading only.

    Every write goes through the write-ahead log, so appended events survive the end of the process. With ``sync``,
    ``append`` also waits for the disk, so that they survive a crash of the machine.
    """

    def __init__(self, database: Rdict, path: Path, *, private: TemporaryFolder | None, sync: bool) -> None:
        self._database: Rdict | None = database
        self._path = path
        self._private = private  # a folder that only this secondary uses; None for the primary
        if private is not None:  # so that the folder is removed even if nobody closes the reader
            weakref.finalize(self, private.close)
        self._caught_up_with: frozenset[tuple[str, int]] | None = None
        self._write_options = WriteOptions()
        self._write_options.sync = sync

    @staticmethod
    def open_primary(path: Path, *, sync: bool = False) -> RocksDbEventStore:
        """Open for writing; a missing store is created. Raises ``StoreError``, e.g. when another process holds it."""
        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path}: expected a folder for the real-time store ({error.strerror})") from error
        with _as_store_error(f"{path}: cannot be opened for writing"):
            return RocksDbEventStore(Rdict(str(path), _options(create=True)), path, private=None, sync=sync)

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
        return RocksDbEventStore(database, path, private=private, sync=False)

    def append(self, events: Sequence[Event]) -> None:
        """One atomic write. See ``EventStore``."""
        if self._private is not None:
            raise StoreError("this store is open for reading: expected the primary")
        batch = WriteBatch(raw_mode=True)
        for event in events:
            batch[event_key(event)] = event_value(event)
        with _as_store_error("the events cannot be stored"):
            self._open.write(batch, self._write_options)

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
        """One backward range scan of at most ``limit`` events for each span. See ``EventReader``."""
        return [UserEvents(self._events(span)) for span in spans]

    def _events(self, span: Span) -> list[Event]:
        limit = span.limit
        lower, upper = range_start(span.user_key, span.since), range_start(span.user_key, span.until)
        if limit <= 0 or lower >= upper:
            return []
        newest_first: list[Event] = []
        with _as_store_error("the real-time store cannot be read"):
            scan = cast(Iterable[tuple[bytes, bytes]], self._open.items(backwards=True, from_key=upper))
            for key, value in scan:  # begins at the last key that is not above upper
                if key < lower or len(newest_first) == limit:
                    break
                newest_first.append(decode_event(key, value))
        return newest_first[::-1]

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
