"""The batch sequences as a key-value view: one read from RocksDB gives a user's history.

The view is built as a whole and only read afterwards. The histories come in the order of their keys, so they are
written once, as files of RocksDB's own format (SST), and nothing has to be sorted or compacted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    DBCompressionType,
    IngestExternalFileOptions,
    Options,
    Rdict,
    SstFileWriter,
)

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
_FILE_BYTES = 256 << 20  # of histories in one SST file
_TOLD_EVERY = 1_000  # users


def write_view(
    sequences: Path,
    out: Path,
    manifest: DatasetManifest,
    *,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write the view of the sequences to ``out``, an empty folder.

    Memory is bounded. ``progress`` is called with the number of users written so far. Raises ``DataError`` when the
    sequences are absent, do not belong to ``manifest`` or are not in the order of the store keys, and ``StoreError``
    when RocksDB cannot write.
    """
    info = BatchInfo.load(sequences)
    _write_view(Path(out), iter_histories(sequences), info, manifest, progress)


def build_batch_view(signals: Path, *, progress: Callable[[int], None] | None = None) -> Path:
    """Write ``signals/batch`` anew from ``signals/sequences``, as ``write_view`` does, and return its path."""
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

    The users come in the order of their store keys. Raises ``DataError`` when they do not, when the histories do not
    belong to ``signals/dataset.json`` or are not those of ``info.num_users`` users, and ``StoreError`` when RocksDB
    cannot write.
    """
    manifest = DatasetManifest.load(signals)
    with output_folder(signals / VIEW, overwrite=True, is_replaceable=is_batch, kind="batch view") as folder:
        _write_view(folder, histories, info, manifest, progress)
    return signals / VIEW


def _write_view(
    out: Path,
    histories: Iterable[tuple[int | str, History]],
    info: BatchInfo,
    manifest: DatasetManifest,
    progress: Callable[[int], None] | None,
) -> None:
    try:
        with closing(Rdict(str(out / _DATABASE), _options())) as database:
            written, files = _write_files(out, histories, manifest, progress)
            moved = IngestExternalFileOptions()
            moved.set_move_files(True)
            if files:
                database.ingest_external_file([str(file) for file in files], moved)
        for file in files:  # RocksDB may have linked them instead
            file.unlink(missing_ok=True)
    except PinRecError:
        raise
    except Exception as error:  # rocksdict raises nothing narrower
        raise StoreError(f"{out}: cannot be written: {error}") from error
    if written != info.num_users:
        raise DataError(f"{out}: {written} users were written, expected num_users={info.num_users}")
    info.save(out)


def _write_files(
    folder: Path,
    histories: Iterable[tuple[int | str, History]],
    manifest: DatasetManifest,
    progress: Callable[[int], None] | None,
) -> tuple[int, list[Path]]:
    """Write the histories to SST files in ``folder``. Returns the number of users, and the files."""
    files: list[Path] = []
    writer: SstFileWriter | None = None
    written = size = 0
    last = b""
    for user_id, history in histories:
        F = history.feature.shape[1]
        if F != manifest.feature_width:
            raise DataError(f"user_id={user_id!r}: features are {F} wide, expected {manifest.feature_width}")
        key = user_store_key(user_id, manifest.user_id_kind)
        if written and key <= last:
            raise DataError(
                f"user_id={user_id!r}: expected users in the order of their store keys, each once; run the batch again"
            )
        if writer is None:
            files.append(folder / f"{len(files):05d}.sst")
            writer, size = SstFileWriter(_options()), 0
            writer.open(str(files[-1]))
        value = encode_history(history)
        writer[key] = value
        last = key
        size += len(key) + len(value)
        written += 1
        if size >= _FILE_BYTES:
            writer.finish()
            writer = None
        if progress and written % _TOLD_EVERY == 0:
            progress(written)
    if writer is not None:
        writer.finish()
    if progress:
        progress(written)
    return written, files


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
