"""Writes the batch view. The histories come in the order of their keys, so they are written once, as files of RocksDB's
own format (SST), and nothing has to be sorted or compacted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

from rocksdict import IngestExternalFileOptions, Rdict, SstFileWriter

from pinrec_core.dataset.batch_info import BatchInfo, is_batch
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.errors import DataError, PinRecError, StoreError
from pinrec_core.files.output_folder import output_folder
from pinrec_core.history import History
from pinrec_core.ids import user_store_key
from signal_service.batch_view import DATABASE, SEQUENCES, VIEW, view_options
from signal_service.history_codec import encode_history

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
        with closing(Rdict(str(out / DATABASE), view_options())) as database:
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
            writer, size = SstFileWriter(view_options()), 0
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
