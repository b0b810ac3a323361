"""Cost against the number of users: a history from the batch view and the real-time store, warm and cold.

The users are made up: each has the newest part of a history of the release's own signals, of geometric length, written
by the writer of the real view, and a few real-time events. *Warm* fetches the same users again and again. *Cold*
fetches each of them once, after the kernel has dropped the pages of both stores; ``read KiB`` is what one request then
reads from the disk. The baseline is a dict of these users' decoded histories under the same stage.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.bench_signals import BASELINE, NUM_ITEMS, answered_bytes, copied, dict_stage, events, rotating
from benchmarks.floors import Floor, copy_floor
from benchmarks.options import Options, Progress
from benchmarks.pipeline import request_tensors
from benchmarks.report import Result, Row, compare
from benchmarks.scale import require_disk
from benchmarks.timing import Timing, time_together
from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.history import History
from pinrec_core.ids import IdKind, user_store_key
from pinrec_core.stages.base import StageParameters, Tensors, run_batch
from signal_service.batch_view import SEQUENCES, VIEW
from signal_service.fetch_stage import SignalFetchStage
from signal_service.history_codec import encode_history
from signal_service.merge import newest
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.view_writing import write_batch_view

WARM, COLD, BUILD = "warm", "cold", "build"
SIZES = (10_000, 100_000, 1_000_000)
QUICK_SIZES = (200, 1_000)
PATTERNS = 512  # histories of the release's signals that the users are made of
MEAN_LENGTH = 32
EVENTS = 4  # real-time events of each user
JUDGED_USERS = 1_000
MIB = 1 << 20


def run(options: Options, progress: Progress) -> Result:
    """Sizes up to ``options.max_users``. Raises ``ConfigError`` where the disk has no room for them."""
    patterns = [copied(h) for _, h in islice(iter_histories(options.prepared.signals / SEQUENCES), PATTERNS)]
    rows: list[Row] = []
    floors: dict[int, Floor] = {}
    for U in QUICK_SIZES if options.quick else [U for U in SIZES if U <= options.max_users]:
        with tempfile.TemporaryDirectory(prefix="pinrec-scale-") as folder:
            rows += _measure(U, patterns, Path(folder), options, floors, progress)
    settings = {
        "mean T": round(float(np.mean([len(_history(user, patterns)) for user in range(1000)])), 1),
        "real-time events": EVENTS, "judged users": JUDGED_USERS, "F": patterns[0].feature.shape[1],
    }  # fmt: skip
    return Result(
        benchmark="scale_users", baseline=BASELINE, settings=settings, floors=list(floors.values()), rows=rows
    )


def _measure(
    U: int, patterns: Sequence[History], folder: Path, options: Options, floors: dict[int, Floor], progress: Progress
) -> list[Row]:
    release = options.prepared.release
    manifest = release.manifest.dataset
    signals, store = folder / "signals", folder / "realtime"
    mean_bytes = np.mean([len(encode_history(_history(user, patterns))) for user in range(1000)])
    require_disk(folder, int(2.5 * U * mean_bytes), f"{U:,} users")  # a compaction holds the view twice
    began = time.perf_counter()
    info = _write_view(U, patterns, signals, options, progress)
    view_seconds = time.perf_counter() - began
    with closing(RocksDbEventStore.open_primary(store)) as primary:
        for user in range(U):
            if user % 100_000 == 0:
                progress(f"users={U:,}: {user:,} have real-time events")
            key = user_store_key(_user_id(user, manifest.user_id_kind), manifest.user_id_kind)
            primary.append(events(key, EVENTS, release.catalogue, manifest, info.end_time))
        progress(f"users={U:,}: fetching")
        users = np.random.default_rng(0).choice(U, min(JUDGED_USERS, U), replace=False).tolist()
        ids = [_user_id(user, manifest.user_id_kind) for user in users]
        requests = [request_tensors(user_id, NUM_ITEMS, manifest) for user_id in ids]
        parameters = StageParameters(
            release=options.prepared.folders.release, signals=signals, realtime=store, device="cpu", threads=1
        )
        stage = SignalFetchStage.open(parameters)
        for part in (signals / VIEW, store):
            _drop_pages(part)
        cold, read_bytes = _once_each(stage, requests)
        size = answered_bytes(stage, requests) // len(requests)
        floor = floors.setdefault(size, copy_floor(size))
        known = {
            user_store_key(user_id, manifest.user_id_kind): _history(user, patterns)
            for user_id, user in zip(ids, users, strict=True)
        }
        timings = time_together(
            {BASELINE: rotating(dict_stage(release, known), requests, 1), WARM: rotating(stage, requests, 1)},
            seconds=3 * options.seconds,
        )
        least = dict.fromkeys((BASELINE, WARM, COLD), floor.milliseconds(size))
        more = {COLD: {"read KiB": read_bytes / len(requests) / 1024}}
        rows = compare({"users": U}, timings | {COLD: cold}, BASELINE, floor_ms=least, more=more)
        sizes = {"view MiB": _size(signals / VIEW) / MIB, "real-time MiB": _size(store) / MIB}
    build = Row(case={"users": U}, what=BUILD, timing=Timing.of([1e3 * view_seconds]), ratio=None, more=sizes)
    return [build, *rows]


def _write_view(U: int, patterns: Sequence[History], signals: Path, options: Options, progress: Progress) -> BatchInfo:
    """The view of U users and its manifest, in a new folder of signals."""
    manifest: DatasetManifest = replace(options.prepared.release.manifest.dataset, num_users=U)
    signals.mkdir(parents=True)
    manifest.save(signals)
    info = replace(BatchInfo.load(options.prepared.signals / SEQUENCES), num_users=U)
    histories: Iterator[tuple[int | str, History]] = (
        (_user_id(user, manifest.user_id_kind), _history(user, patterns)) for user in range(U)
    )
    said = [0.0]

    def tell(written: int) -> None:
        if time.monotonic() - said[0] > 10:
            said[0] = time.monotonic()
            progress(f"users={U:,}: {written:,} are in the batch view")

    write_batch_view(signals, histories, info, progress=tell)
    return info


def _history(user: int, patterns: Sequence[History]) -> History:
    """The history of a made-up user, the same at every call."""
    length = int(np.random.default_rng(user).geometric(1 / MEAN_LENGTH))
    return newest(patterns[user % len(patterns)], length)


def _user_id(user: int, kind: IdKind) -> int | str:
    return f"user-{user:09}" if kind is IdKind.STRING else user  # in the order of their numbers


def _once_each(stage: SignalFetchStage, requests: Sequence[Tensors]) -> tuple[Timing, int]:
    """The latency of each request, asked once, and the bytes that all of them read from the disk."""
    milliseconds = []
    before_reading = _read_bytes()
    for request in requests:
        before = time.perf_counter()
        run_batch(stage, [request])
        milliseconds.append((time.perf_counter() - before) * 1e3)
    return Timing.of(milliseconds), _read_bytes() - before_reading


def _drop_pages(folder: Path) -> None:
    """Make the kernel forget the content of all files: they are written to the disk first, as only clean pages go."""
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)


def _read_bytes() -> int:
    """What this process has read from disks so far."""
    lines = Path("/proc/self/io").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
