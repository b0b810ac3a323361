"""Cost against the catalogue: exact search, the index at the recall that serving asks for, and all of ``retrieve``.

Clustered unit vectors, as many around each centre whatever the catalogue's size, and queries that lie near items, as
those of a trained model do. The vectors are a file that is mapped into memory. The index is built in a process of its
own, so that the memory that this takes can be told, and is then mapped, as serving maps it. ``recall`` is the share of
what exact search over the float32 vectors finds, for queries that nprobe was not calibrated on.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from benchmarks.bench_retrieval import BASELINE as BARE
from benchmarks.bench_retrieval import (
    CALIBRATION_QUERIES,
    SYNTHETIC_WIDTH,
    Workload,
    clustered_workload,
    fill_with_clusters,
    functions,
    plans_near,
)
from benchmarks.floors import Floor, read_floor
from benchmarks.options import Options, Progress
from benchmarks.report import Result, Row, Value, compare
from benchmarks.scale import require_disk
from benchmarks.timing import Timing, time_together
from pinrec_core.release.calibration import INDEX_RECALL_TARGET
from pinrec_core.retrieval.exact_search import blocks_of, exact_top_k, recall
from pinrec_core.retrieval.item_index import ItemIndex

VECTORS = "item_vectors.npy"
BASELINE = "exact search"
BUILD = "build"
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
QUICK_SIZES = (4_000, 20_000)
ITEMS_PER_CLUSTER = 1000
"""More than the deepest lookup, which for N = 1,000 asks for 672 items per embedding. Beyond its cluster a query's
neighbours are anywhere, and an index that is to find them has to visit a quarter of its lists."""
BATCHES = (1, 16)
DEEP_ITEMS = 1_000_000
"""The largest catalogue that is searched for N = 1,000 as well: exact search alone would take a quarter of an hour."""
NUM_ITEMS = (100, 1000)
JUDGED_QUERIES = 256
FLOOR_BYTES = 1 << 30  # of a larger array the bandwidth is the same
MEMORY_INTERVAL = 0.02  # seconds between two looks at the memory of the process that builds
MIB = 1 << 20


def run(options: Options, progress: Progress) -> Result:
    """Sizes up to ``options.max_items``. Raises ``ConfigError`` where the disk has no room for them."""
    faiss.omp_set_num_threads(options.threads)
    rows: list[Row] = []
    floors: list[Floor] = []
    for V in QUICK_SIZES if options.quick else [V for V in SIZES if V <= options.max_items]:
        with tempfile.TemporaryDirectory(prefix="pinrec-scale-") as folder:
            found, floor = _measure(V, Path(folder), options, progress)
            rows += found
            floors.append(floor)
    settings = {
        "D": SYNTHETIC_WIDTH, "items per cluster": ITEMS_PER_CLUSTER, "recall target": INDEX_RECALL_TARGET,
        "judged queries": JUDGED_QUERIES, "threads": options.threads,
    }  # fmt: skip
    return Result(benchmark="scale_catalogue", baseline=BASELINE, settings=settings, floors=floors, rows=rows)


def _measure(V: int, folder: Path, options: Options, progress: Progress) -> tuple[list[Row], Floor]:
    shape = (V, SYNTHETIC_WIDTH)
    size = V * SYNTHETIC_WIDTH * 4
    require_disk(folder, 2 * size, f"{V:,} items")
    progress(f"V={V:,}: making vectors")
    vectors = np.memmap(folder / "vectors", np.float32, "w+", shape=shape)
    fill_with_clusters(vectors, max(1, V // ITEMS_PER_CLUSTER), np.random.default_rng(V))
    vectors.flush()
    progress(f"V={V:,}: building the index")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        built = process.submit(_build, folder, shape, options.threads).result()
    index = ItemIndex.read(folder / "index", folder / VECTORS, nprobe=1)
    floor = read_floor(min(size, FLOOR_BYTES))
    rows = [_build_row(V, built, index, folder)]
    for N in NUM_ITEMS[:1] if options.quick or V > DEEP_ITEMS else NUM_ITEMS:
        workload = clustered_workload(index, plans_near(vectors, N, np.random.default_rng(0)))
        progress(f"V={V:,} N={N}: calibrating")
        reached = _calibrated(workload, vectors)
        for B in BATCHES:
            progress(f"V={V:,} N={N} B={B}")
            case: dict[str, Value] = {"V": V, "N": N, "B": B}
            timed = {BASELINE: _exact(workload, vectors, B), **functions(workload, B)}
            timings = time_together(timed, seconds=options.seconds)
            least = {BASELINE: floor.milliseconds(size)}
            rows += compare(case, timings, BASELINE, floor_ms=least, more={BARE: reached})
    return rows, floor


def _calibrated(workload: Workload, vectors: np.ndarray) -> dict[str, Value]:
    """Choose nprobe as a release does; what that takes and reaches."""
    queries, depth = workload.queries, workload.largest_depth
    began = time.perf_counter()
    workload.index.calibrate(queries[:CALIBRATION_QUERIES], depth, recall_target=INDEX_RECALL_TARGET)
    seconds = time.perf_counter() - began
    judged = queries[CALIBRATION_QUERIES:][:JUDGED_QUERIES]
    exact = exact_top_k(judged, blocks_of(vectors), depth)
    return {
        "recall": recall(exact, workload.index.search(judged, depth)[1]), "depth": depth,
        "nprobe": workload.index.nprobe, "calibrate s": seconds,
    }  # fmt: skip


def _exact(workload: Workload, vectors: np.ndarray, B: int) -> Callable[[], object]:
    """Exact search over float32 as matrix products, for the plans of B other users at each call."""
    batches = workload.batches(B)

    def search() -> object:
        plans = next(batches)
        queries = np.concatenate([plan.embedding for plan in plans])
        return exact_top_k(queries, blocks_of(vectors), max(map(workload.depth, plans)))

    return search


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What building took: seconds, and the most memory that the process had of its own, without mapped files."""

    seconds: float
    peak_bytes: int


def _build(folder: Path, shape: tuple[int, int], threads: int) -> Built:
    """Build the index of ``folder/vectors`` and write it beside them."""
    faiss.omp_set_num_threads(threads)
    vectors = np.memmap(folder / "vectors", np.float32, "r", shape=shape)
    before = _own_memory()
    peak = before
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(MEMORY_INTERVAL):
            peak = max(peak, _own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    try:
        index = ItemIndex.build(vectors)
        seconds = time.perf_counter() - began
    finally:
        ended.set()
        watcher.join()
    index.write(folder / "index", folder / VECTORS)
    return Built(seconds=seconds, peak_bytes=max(peak, _own_memory()) - before)


def _own_memory() -> int:
    """Bytes of this process that belong to no file (RssAnon)."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def _build_row(V: int, built: Built, index: ItemIndex, folder: Path) -> Row:
    return Row(
        case={"V": V}, what=BUILD, timing=Timing.of([1e3 * built.seconds]), ratio=None,
        more={
            "nlist": index.nlist, "index MiB": (folder / "index").stat().st_size / MIB,
            "vectors MiB": (folder / VECTORS).stat().st_size / MIB,
            "peak MiB": built.peak_bytes / MIB,
        },
    )  # fmt: skip
