"""A process of a stage as far as metrics go: it records what it is told to, line by line, until its input ends.

A line is JSON: the name of a metric, a value, and the values of its labels.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from pinrec_core.stages.metrics import STAGE_METRICS
from pinrec_serving.stage_metrics import METRICS_VARIABLE, open_metrics
from tests.conftest import ROOT


class Recording:
    """Starts the process, as a context manager; leaving ends it."""

    def __init__(self, folder: Path, stage: str, release: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.pinrec_serving.recording", stage, release],
            cwd=ROOT, env={"PATH": "", METRICS_VARIABLE: str(folder)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.pid = self._process.pid
        self.record()

    def record(self, name: str = "", value: float = 1, *labels: str) -> None:
        """Returns when it is recorded."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, value, *labels]) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def end(self) -> None:
        self._process.communicate()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


if __name__ == "__main__":
    metrics = open_metrics(*sys.argv[1:])
    table = {metric.name: metric for metric in STAGE_METRICS}
    for line in sys.stdin:
        name, value, *labels = json.loads(line)
        if name:
            metrics.record(table[name], value, *labels)
        print("done", flush=True)
