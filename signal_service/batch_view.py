"""The batch sequences as a key-value view: one read from RocksDB gives a user's history.

The view is built as a whole (``view_writing``) and only read afterwards.
"""

from __future__ import annotations

from pathlib import Path

from rocksdict import AccessType, BlockBasedOptions, DBCompressionType, Options, Rdict

from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import StoreError
from pinrec_core.history import History
from signal_service.history_codec import decode_history

SEQUENCES = "sequences"
VIEW = "batch"
DATABASE = "users"


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
            database = Rdict(str(folder / DATABASE), view_options(), access_type=access)
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


def view_options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_max_open_files(-1)  # all files are open from the start, so they stay readable when the view is replaced
    options.set_compression_type(DBCompressionType.none())  # quantised features do not compress
    tables = BlockBasedOptions()
    tables.set_bloom_filter(10, False)  # looking up an unknown user reads no data
    options.set_block_based_table_factory(tables)
    return options
