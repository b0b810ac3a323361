"""The steps of a batch as publishing calls them: sequences, then their view, and who asked to be forgotten."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from pinrec_core.dataset.manifest import MANIFEST_NAME, DatasetManifest
from signal_service.batch_job import run_batch_job
from signal_service.batch_view import build_batch_view


class Report(Protocol):
    """What the job counted."""

    incremental: bool

    def save(self, folder: Path) -> None: ...


def write_sequences(
    dataset: Path,
    out: Path,
    *,
    master: str,
    end_time: int,
    lookback_days: int | None,
    max_interactions_per_user: int,
    driver_memory: str,
    previous: Path | None,
    forgotten: Mapping[bytes, int],
    progress: Callable[[str], None],
) -> Report | None:
    """Run the Spark job on ``dataset``, so that its output is in ``out``. Returns what it counted."""
    work = out.parent / "job"
    work.mkdir()
    for name in ("events", "features.parquet", MANIFEST_NAME):
        if (dataset / name).exists():
            (work / name).symlink_to(dataset.resolve() / name)
    sequences = run_batch_job(
        work, master=master, end_time=end_time, lookback_days=lookback_days,
        max_interactions_per_user=max_interactions_per_user, driver_memory=driver_memory, progress=progress,
    )  # fmt: skip
    out.rmdir()
    sequences.rename(out)
    shutil.rmtree(work)
    return None


def write_view(sequences: Path, out: Path, manifest: DatasetManifest, *, progress: Callable[[int], None]) -> None:
    """Make the key-value view of ``sequences`` in ``out``."""
    build_batch_view(out.parent, progress=progress)


def was_incremental(report: Report | None) -> bool:
    """Whether the job went on from the sequences of an earlier snapshot."""
    return report is not None and report.incremental


def save_report(report: Report | None, snapshot: Path) -> None:
    """Keep the counts of the job in the snapshot."""
    if report is not None:
        report.save(snapshot)


def forgotten_users(realtime: str) -> dict[bytes, int]:
    """Every user who asked to be forgotten, by store key, with the time up to which."""
    return {}
