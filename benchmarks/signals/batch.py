"""The batch as a log grows: a full run, a day that is appended, and an incremental run, on a synthetic log.

The day is the newest 365th of the events.

Each run is the command of users, in a process of its own; its memory is that of all its processes together (Spark's
Java included), looked at twice a second.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.demo import pinrec_command
from benchmarks.process_memory import pss_mib, tree
from pinrec_core.errors import ServerError
from pinrec_core.preparation.append import append_events
from pinrec_core.preparation.schema import load_spec

LOOK_SECONDS = 0.5
ITEMS = 100_000
EVENTS_PER_USER = 40
DAYS = 365


def run(folder: Path, *, sizes: tuple[int, ...], driver_memory: str = "1g") -> list[dict[str, Any]]:
    """A row for each number of events."""
    rows = []
    for events in sizes:
        place = folder / str(events)
        log, dataset = place / "log", place / "data"
        _pinrec("synth", "--out", log, "--users", events // EVENTS_PER_USER, "--items", ITEMS, "--events", events)
        day = _last_day_apart(log, place / "day")
        prepared, _ = _pinrec("prepare", "--config", log / "dataset.toml", "--out", dataset, "--skip-signals")
        publish = ("signals", "publish", dataset, "--driver-memory", driver_memory)
        full, full_memory = _pinrec(*publish)
        began = time.perf_counter()
        append_events(load_spec(log / "dataset.toml"), place / "day", dataset, now=int(time.time()))
        appended = time.perf_counter() - began
        incremental, day_memory = _pinrec(*publish)
        rows.append(
            {"events": events, "of the day": day, "prepare s": prepared, "full s": full,
             "events/s": (events - day) / full, "append s": appended, "day s": incremental,
             "day / full": incremental / full, "peak GiB": max(full_memory, day_memory)}
        )  # fmt: skip
    return rows


def _last_day_apart(log: Path, day: Path) -> int:
    """Move the newest of the log's events to ``day``, a batch of rows at a time. Returns how many there are."""
    events = log / "events.parquet"
    file = pq.ParquetFile(events)
    time = pq.read_table(events, columns=["timestamp"])["timestamp"].to_numpy()
    start = int(np.quantile(time, 1 - 1 / DAYS))
    day.mkdir()
    earlier, moved = log / "earlier.parquet", 0
    with (
        pq.ParquetWriter(earlier, file.schema_arrow) as before,
        pq.ParquetWriter(day / "events.parquet", file.schema_arrow) as after,
    ):
        for batch in file.iter_batches():
            late = pc.greater(batch.column("timestamp"), start)
            before.write_batch(batch.filter(pc.invert(late)))
            after.write_batch(batch.filter(late))
            moved += pc.sum(late).as_py() or 0
    earlier.replace(events)
    return moved


def _pinrec(*words: object) -> tuple[float, float]:
    """Seconds and peak memory, in GiB, of a command. Raises ``ServerError`` when it fails."""
    began, peak = time.perf_counter(), 0.0
    with subprocess.Popen(
        [*pinrec_command(), *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            with suppress(OSError, StopIteration):  # a process that ended meanwhile
                peak = max(peak, pss_mib(tree(process.pid)) / 1024)
            time.sleep(LOOK_SECONDS)
        seconds = time.perf_counter() - began
        if process.returncode:
            assert process.stderr is not None
            raise ServerError(f"pinrec {words[0]}: {process.stderr.read()[-500:]}")
    return seconds, peak
