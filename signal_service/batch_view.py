"""The batch sequences as a key-value view: one read from RocksDB gives a user's history.

The view is built as a whole and only read afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

from rocksdict import AccessType, BlockBasedOptions, DBCompressionType, Options, Rdict, WriteBatch, WriteOptions

from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.dataset.sequences import BatchInfo, is_batch, iter_histories
from pinrec_core.errors import DataError, PinRecError, StoreError
from pinrec_core.files.output_folder import output_folder
from pinrec_core.history import History
from pinrec_core.ids import user_store_key
from signal_service.history_codec import decode_history, encode_history

SEQUENCES = "sequences"
VIEW = "batch"
_DATABASE = "users"
_WRITE_BYTES = 4 << 20


def build_batch_view(signals: Path, *, progress: Callable[[int], None] | None = None) -> Path:
    """Write ``signals/batch`` anew from ``signals/sequences`` and return its path.

    Raises ``DataError`` when the sequences are absent or do not belong to ``signals/dataset.json``; see
    ``write_batch_view`` for the rest.
    """
    signals = Path(signals)
    info = BatchInfo.load(signals / SEQUENCES)
    return write_batch_view(signals, iter_histories(signals / SEQUENCES), info, progress=progress)


def write_batch_view(
    signals: Path,
    histories: Iterable[tuple[int | str, History]],
    info: BatchInfo,
    *,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write ``signals/batch`` anew with ``(user_id, history)`` of every user, and return its path.

    Memory is bounded. ``progress`` is called with the number of users written so far. Raises ``DataError`` when the
    histories do not belong to ``signals/dataset.json`` or are not those of ``info.num_users`` users, and
    ``StoreError`` when RocksDB cannot write.
    """
    manifest = DatasetManifest.load(signals)
    with output_folder(signals / VIEW, overwrite=True, is_replaceable=is_batch, kind="batch view") as folder:
        try:
            with closing(Rdict(str(folder / _DATABASE), _options())) as database:
                written = _write(database, histories, manifest, progress)
        except PinRecError:
            raise
        except Exception as error:  # rocksdict raises nothing narrower
            raise StoreError(f"{signals / VIEW}: cannot be written: {error}") from error
        if written != info.num_users:
            raise DataError(f"{signals / VIEW}: {written} users were written, expected num_users={info.num_users}")
        info.save(folder)
    return signals / VIEW


def _write(
    database: Rdict,
    histories: Iterable[tuple[int | str, History]],
    manifest: DatasetManifest,
    progress: Callable[[int], None] | None,
) -> int:
    """Fill and compact a new database. Returns the number of users written."""
    without_log = WriteOptions()
    without_log.disable_wal = True  # type: ignore[assignment, method-assign]  # an unfinished view is never published
    batch = WriteBatch(raw_mode=True)
    written = 0
    for user_id, history in histories:
        F = history.feature.shape[1]
        if F != manifest.feature_width:
            raise DataError(f"user_id={user_id!r}: features are {F} wide, expected {manifest.feature_width}")
        batch[user_store_key(user_id, manifest.user_id_kind)] = encode_history(history)
        written += 1
        if batch.size_in_bytes() >= _WRITE_BYTES:
            database.write(batch, without_log)
            batch = WriteBatch(raw_mode=True)  # a batch can be written only once
            if progress:
                progress(written)
    database.write(batch, without_log)
    database.flush()
    database.compact_range(None, None)
    if progress:
        progress(written)
    return written


class BatchView:
    """The view, opened for reading. Any number of processes can have it open."""

    def __init__(self, database: Rdict, info: BatchInfo, manifest: DatasetManifest) -> None:
        self.info = info
        self.manifest = manifest
        self._database = database

    @staticmethod
    def open(signals: Path) -> BatchView:
        """Raises ``DataError`` when there is no view, ``StoreError`` when RocksDB cannot open it."""
        folder = Path(signals) / VIEW
        manifest = DatasetManifest.load(signals)
        info = BatchInfo.load(folder)
        try:
            access = AccessType.read_only(error_if_log_file_exist=False)
            database = Rdict(str(folder / _DATABASE), _options(), access_type=access)
        except Exception as error:  # rocksdict raises nothing narrower
            raise StoreError(f"{folder}: cannot be opened: {error}") from error
        return BatchView(database, info, manifest)

    def get(self, user_key: bytes) -> History | None:
        """The user's batch history, oldest first; None for an unknown user. Its arrays are views of the bytes read."""
        try:
            data = self._database.get(user_key)
        except Exception as error:  # rocksdict raises nothing narrower
            raise StoreError(f"the batch view cannot be read: {error}") from error
        return None if data is None else decode_history(data)

    def close(self) -> None:
        self._database.close()


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_max_open_files(-1)  # all files are open from the start, so they stay readable when the view is replaced
    options.set_compression_type(DBCompressionType.none())  # quantised features do not compress
    tables = BlockBasedOptions()
    tables.set_bloom_filter(10, False)  # looking up an unknown user reads no data
    options.set_block_based_table_factory(tables)
    return options
