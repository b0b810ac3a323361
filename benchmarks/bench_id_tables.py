"""ID tables of 10 GB under the real stage: how soon a process is ready, what a further one costs, and p99 under load.

The tables are a part of a made-up release, whose other parts are those of the demo. Several processes open the stage,
as instances of ``pinrec serve`` do, and then all look up fresh Zipf keys at the same time.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from benchmarks.bench_id_embedder import zipf_keys
from benchmarks.options import Options, Progress
from benchmarks.process_memory import pss_mib
from benchmarks.report import Result, Row
from benchmarks.timing import Timing
from id_embedder.stage import IdEmbedderStage
from pinrec_core.files.file_writing import save_tensors
from pinrec_core.release.format import ID_ROWS, SPACE_KEY, Release
from pinrec_core.release.manifest import FILES, ID_EMBEDDER, MANIFEST_FILE
from pinrec_core.representations.id_tables import SCALE_BYTES, RowFormat
from pinrec_core.stages.base import StageParameters

BASELINE = "first process"
HASHES, ROW_WIDTH = 5, 32
ROWS, QUICK_ROWS = 1 << 25, 1 << 18
PROCESSES = 3
T, B = 512, 8


def run(options: Options, progress: Progress) -> Result:
    rows: list[Row] = []
    count = QUICK_ROWS if options.quick else ROWS
    for row_format in RowFormat:
        with tempfile.TemporaryDirectory(prefix="pinrec-id-tables-") as folder:
            progress(f"{row_format}: writing tables of {HASHES} × {count:,} rows")
            size = make_release(options.prepared.release, Path(folder), count, row_format)
            case = {"rows": row_format.value, "GB": round(size / 1e9, 2), "T": T, "B": B}
            progress(f"{row_format}: {PROCESSES} processes")
            rows += _measure(options, Path(folder), case)
    settings = {"processes": PROCESSES, "checksum": "compared by pinrec serve before, not by the stage"}
    return Result(benchmark="id_tables", baseline=BASELINE, settings=settings, floors=[], rows=rows)


def make_release(source: Release, folder: Path, count: int, row_format: RowFormat) -> int:
    """A release in ``folder`` whose ID tables have ``count`` rows per hash; the bytes of its tables.

    Its checksums are those of ``source``: the stage does not compare them.
    """
    int8 = row_format is RowFormat.INT8
    shape = (HASHES * count, ROW_WIDTH + SCALE_BYTES if int8 else ROW_WIDTH)
    tables = torch.from_numpy(np.zeros(shape, np.uint8 if int8 else np.float16))  # zeros of NumPy take no memory
    path = folder / FILES[ID_EMBEDDER]
    save_tensors({ID_ROWS: tables}, path, metadata={SPACE_KEY: source.manifest.embedding_space})
    for name, part in source.manifest.parts.items():
        if name != ID_EMBEDDER:
            (folder / part.file).symlink_to(source.folder.resolve() / part.file)
    described = json.loads((source.folder / MANIFEST_FILE).read_text("utf-8"))
    described["model"] |= {"id_rows": count, "id_hashes": HASHES, "id_width": HASHES * ROW_WIDTH}
    described["parts"][ID_EMBEDDER]["bytes"] = path.stat().st_size
    (folder / MANIFEST_FILE).write_text(json.dumps(described), "utf-8")
    return path.stat().st_size


def _measure(options: Options, release: Path, case: dict[str, str | int | float]) -> list[Row]:
    """Open the stage in one process after the other, then let all of them work at once."""
    spawn = multiprocessing.get_context("spawn")  # a forked process would share more than an instance does
    pipes: list[Connection] = []
    processes = []
    ready: list[float] = []
    memory: list[float] = []
    for number in range(PROCESSES):
        here, there = spawn.Pipe()
        process = spawn.Process(target=_serve, args=(there, release, number, 3 * options.seconds), daemon=True)
        process.start()
        processes.append(process)
        pipes.append(here)
        ready.append(here.recv())
        memory.append(pss_mib([p.pid for p in processes if p.pid]))
    for pipe in pipes:
        pipe.send(None)
    milliseconds = [value for pipe in pipes for value in pipe.recv()]
    for process in processes:
        process.join()
    further = (memory[-1] - memory[0]) / (PROCESSES - 1)
    opened = [Timing.of([1e3 * seconds]) for seconds in ready]
    first = Row(
        case=case, what=BASELINE, timing=opened[0], ratio=1.0, more={"memory MiB": memory[0], "of the first": 1.0}
    )
    second = Row(
        case=case, what="further process", timing=opened[-1], ratio=opened[-1].median_ms / opened[0].median_ms,
        more={"memory MiB": further, "of the first": further / memory[0]},
    )  # fmt: skip
    return [first, second, Row(case=case, what="stage, all at once", timing=Timing.of(milliseconds), ratio=None)]


def _serve(pipe: Connection, release: Path, number: int, seconds: float) -> None:
    """One instance: say how long it took to be ready, wait for the start, then look up batches of fresh keys."""
    before = time.perf_counter()
    stage = IdEmbedderStage(StageParameters(release=release, signals=release, realtime=None, device="cpu", threads=1))
    pipe.send(time.perf_counter() - before)
    rng = np.random.default_rng(number)
    pipe.recv()
    milliseconds: list[float] = []
    end = time.perf_counter() + seconds
    while (before := time.perf_counter()) < end:
        keys = np.split(zipf_keys(rng, B * T), B)
        before = time.perf_counter()
        stage.run(keys)
        milliseconds.append((time.perf_counter() - before) * 1e3)
    pipe.send(milliseconds)
