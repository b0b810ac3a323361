"""How long `pinrec release` takes, and how much of it is the exact search that its figures need.

The command is timed from outside, once each way: a run of a million items takes minutes. It uses all cores; the floor
is that of as many as ``--threads`` says.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.demo import pinrec_command
from benchmarks.floors import matmul_floor
from benchmarks.options import Options, Progress
from benchmarks.report import Result, Row
from benchmarks.timing import Timing
from pinrec_core.errors import ConfigError, ServerError
from pinrec_core.release.current import current_release
from pinrec_core.release.format import Release

BASELINE, JUDGED = "without figures", "with figures"


def run(options: Options, progress: Progress) -> Result:
    if options.run is None:
        raise ConfigError("--run is missing: expected a run folder made by `pinrec train`")
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="pinrec-releases-", dir=options.run.resolve().parent) as folder:
        for what, more in ((BASELINE, ["--no-evaluate"]), (JUDGED, [])):
            progress(f"releasing {options.run} {what}")
            seconds[what] = _seconds(options.run, Path(folder) / what, more)
        manifest = Release.open(current_release(Path(folder) / JUDGED)).manifest
    queries = manifest.metrics["users"] * manifest.metrics["embeddings"]
    needed = 2 * manifest.dataset.num_items * manifest.model.item_width * queries
    floor = matmul_floor(torch.float32)
    rows = [
        Row(
            case={"V": manifest.dataset.num_items}, what=what, timing=Timing.of([1e3 * took]),
            ratio=took / seconds[BASELINE], more={"seconds": took},
            floor_ms=floor.milliseconds(needed) if what == JUDGED else None,
        )
        for what, took in seconds.items()
    ]  # fmt: skip
    settings = {"users judged": manifest.metrics["users"], "queries": queries, "D": manifest.model.item_width}
    return Result(benchmark="release", baseline=BASELINE, settings=settings, floors=[floor], rows=rows)


def _seconds(run: Path, releases: Path, more: list[str]) -> float:
    began = time.perf_counter()
    command = [*pinrec_command(), "release", str(run), "--releases", str(releases), *more]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ServerError(f"pinrec release ended with status {done.returncode}: {done.stderr[-2000:]}")
    return time.perf_counter() - began
