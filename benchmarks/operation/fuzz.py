"""Malformed requests, half of them nearly valid, beside requests whose answers are known (``load_tests.fuzzing``)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.operation.drill import Row, Setting
from pinrec_core.errors import ServerError

REQUESTS = 10_000
FOUND_SOMETHING = 1  # the exit status of a fuzzer that did, and has reported all the same


def run(setting: Setting) -> list[Row]:
    requests = 300 if setting.quick else REQUESTS
    with setting.server() as server, tempfile.TemporaryDirectory(prefix="pinrec-fuzz-") as folder:
        setting.progress(f"{requests} requests")
        report = Path(folder) / "report.json"
        done = subprocess.run(
            [
                sys.executable, "-m", "load_tests.fuzzing", "--url", server.url, "--dataset", setting.signals.parent,
                "--requests", str(requests), "--server-pid", str(server.pid), "--json", report,
            ],
            stdout=sys.stderr,
        )  # fmt: skip
        if done.returncode not in (0, FOUND_SOMETHING):
            raise ServerError(f"the fuzzer ended with status {done.returncode}")
        said = json.loads(report.read_text("utf-8"))
    return [
        {
            "requests": requests, "findings": len(said["findings"]), "changed neighbours": said["changed_neighbours"],
            "slowest s": said["slowest_seconds"], "left out": said["left_out"],
            "neighbours": sum(count for name, count in said["neighbours"].items() if name != "slowest_seconds"),
        }
    ]  # fmt: skip
