"""Whether one step of {MT,OC} with many offsets serves more of what users do next than PinnerFormer's one embedding.

``program`` times the two; this trains them on a log, three tenths of its users held out, and judges what both serve.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.bench_program import MANY_OFFSETS
from benchmarks.demo import pinrec_command
from benchmarks.options import Options, Progress
from benchmarks.report import Result, Row
from benchmarks.timing import Timing
from pinrec_core.config.sections import Variant
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import ServerError

BASELINE, ONE_STEP = "PinnerFormer", "{MT,OC}"
VARIANTS = {BASELINE: Variant.PINNERFORMER, ONE_STEP: Variant.MT_OC}
PRESET = "tiny"
HELD_OUT = 0.3  # of the users: the log of the demo has few


def run(options: Options, progress: Progress) -> Result:
    dataset = options.prepared.signals.parent
    with tempfile.TemporaryDirectory(prefix="pinrec-one-step-") as folder:
        runs = {what: Path(folder) / variant.value for what, variant in VARIANTS.items()}
        for what, path in runs.items():
            progress(f"training {what}")
            _pinrec("train", dataset, "--out", path, "--preset", PRESET, "--variant", VARIANTS[what].value,
                    "--set", f"model.max_offset={MANY_OFFSETS}", "--set", f"training.evaluation_share={HELD_OUT}",
                    *(["--epochs", 1] if options.quick else []))  # fmt: skip
        progress("judging what they serve")
        offsets = ",".join(str(offset) for offset in range(1, MANY_OFFSETS + 1))
        embeddings = MANY_OFFSETS * len(DatasetManifest.load(dataset).outcomes)
        judged = _pinrec("evaluate", *runs.values(), "--embeddings", embeddings, "--offsets", offsets, "--json")
    subjects: dict[str, dict[str, Any]] = json.loads(judged)["subjects"]
    found = {what: subjects[str(path)] for what, path in runs.items()}
    rows = [
        Row(
            case={"dataset": json.loads(judged)["dataset"], "users": one["users"]}, what=what,
            timing=Timing.of([0.0]), ratio=one["served_recall"] / found[BASELINE]["served_recall"],
            more={
                "served recall": one["served_recall"], "unordered recall": one["unordered_recall"],
                "embeddings": one["embeddings"],
            },
        )
        for what, one in found.items()
    ]  # fmt: skip
    settings = {"preset": PRESET, "offsets": MANY_OFFSETS, "held out": HELD_OUT}
    return Result(benchmark="one_step", baseline=BASELINE, settings=settings, floors=[], rows=rows)


def _pinrec(*arguments: object) -> str:
    """What a command prints. Raises ``ServerError`` where it fails."""
    done = subprocess.run([*pinrec_command(), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise ServerError(f"pinrec {arguments[0]} ended with status {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
