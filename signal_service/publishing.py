"""From a prepared dataset to a snapshot that serves: the batch job, its view, then the link ``current``."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import DataError
from signal_service.batch_job import SECONDS_PER_DAY, write_sequences
from signal_service.batch_view import SEQUENCES, VIEW
from signal_service.snapshot_changes import adopt_plain_folders, create, publish
from signal_service.snapshots import Snapshot, current_name, open_snapshot, snapshot_folder, using_snapshot
from signal_service.view_writing import write_view

log = logging.getLogger(__name__)

SIGNALS = "signals"
JOB, VIEW_PHASE, DISK = "building sequences with Spark", "building the batch view", "writing to the disk"

Progress = Callable[[str, int, int], None]
"""Is told the phase, the amount done, and the whole."""


def publish_batch(
    dataset: Path,
    *,
    now: datetime.datetime,
    master: str = "local[*]",
    end_time: int | None = None,
    lookback_days: int | None = None,
    max_interactions_per_user: int = 2048,
    driver_memory: str = "2g",
    forgotten: Mapping[bytes, int] = MappingProxyType({}),
    incremental: bool = True,
    progress: Progress = lambda phase, done, total: None,
) -> Snapshot:
    """Make a snapshot of the dataset's events in ``dataset/signals``, and make it the current one.

    ``end_time`` (Unix seconds, exclusive) defaults to just behind the manifest's ``last_timestamp``, which leaves out
    events that were ahead of the clock. ``lookback_days`` bounds how far before it a sequence begins. Users in
    ``forgotten`` (by store key) keep nothing up to the time that is given. With ``incremental`` the job goes on from
    the current snapshot where it can. When anything fails, or the process is killed, the current snapshot stays.

    Raises ``ConfigError`` while another process publishes, ``DataError`` for an unusable dataset, ``ServerError`` when
    Spark cannot run, ``StoreError`` or ``StorageError`` when the result cannot be written.
    """
    dataset = Path(dataset)
    signals = dataset / SIGNALS
    manifest = DatasetManifest.load(dataset)
    end_time = manifest.last_timestamp + 1 if end_time is None else end_time
    adopt_plain_folders(signals)
    with ExitStack() as stack:
        parent = _parent(signals, stack) if incremental else None

        def build(folder: Path) -> str | None:
            for name in (SEQUENCES, VIEW):
                (folder / name).mkdir()
            manifest.save(folder)
            progress(JOB, 0, 1)
            report = write_sequences(
                dataset, folder / SEQUENCES, master=master, end_time=end_time, lookback_days=lookback_days,
                max_interactions_per_user=max_interactions_per_user, driver_memory=driver_memory,
                previous=None if parent is None else snapshot_folder(signals, parent) / SEQUENCES,
                forgotten=forgotten, progress=lambda message: log.info("%s", message),
            )  # fmt: skip
            progress(JOB, 1, 1)
            report.save(folder)
            users = BatchInfo.load(folder / SEQUENCES).num_users
            write_view(folder / SEQUENCES, folder / VIEW, manifest, progress=lambda n: progress(VIEW_PHASE, n, users))
            progress(DISK, 0, 1)
            return parent if report.incremental else None

        start_time = None if lookback_days is None else end_time - lookback_days * SECONDS_PER_DAY
        snapshot = create(signals, build, end_time=end_time, start_time=start_time, now=now)
        progress(DISK, 1, 1)
    return publish(signals, snapshot.name)


def _parent(signals: Path, stack: ExitStack) -> str | None:
    """The current snapshot, held until ``stack`` is closed so that nobody removes it; None where none is whole."""
    name = current_name(signals)
    if name is None:
        return None
    try:
        stack.enter_context(using_snapshot(snapshot_folder(signals, name)))
        open_snapshot(signals, name)
    except DataError as error:
        log.warning("building all sequences anew: %s", error)
        return None
    return name
