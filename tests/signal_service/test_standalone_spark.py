"""The batch job on a real standalone Spark: a master and two workers, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from pinrec_core.dataset.sequences import iter_histories
from tests.signal_service.builders import EVENTS, expected_sequences, write_prepared
from tests.signal_service.standalone_spark import standalone_spark

pytestmark = pytest.mark.spark

RUN = """
import sys
from pathlib import Path
from signal_service.batch_job import write_sequences
dataset, out, master, end = sys.argv[1:]
Path(out).mkdir()
report = write_sequences(
    Path(dataset), Path(out), master=master, end_time=int(end), lookback_days=None, max_interactions_per_user=2048,
    driver_memory="512m", progress=lambda _: None,
)
print(report.users)
"""


def run(*arguments: object) -> str:
    environment = os.environ | {"SPARK_LOCAL_IP": "127.0.0.1"}  # this machine may have no name
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_runs_on_a_master_with_two_workers(tmp_path: Path):
    dataset = write_prepared(tmp_path / "data", EVENTS)
    with standalone_spark(tmp_path, workers=2) as spark:
        assert run(dataset, tmp_path / "out", spark.url, 1050) == "4"
        with urllib.request.urlopen(f"{spark.page}/json/", timeout=60) as answer:
            state = json.load(answer)
    assert [worker["state"] for worker in state["workers"]] == ["ALIVE", "ALIVE"]
    assert [job["state"] for job in state["completedapps"]] == ["FINISHED"]
    assert all((tmp_path / f"work-{number}").glob("app-*/*/stderr") for number in range(2))
    names = ("item_key", "item_type", "outcome", "surface", "timestamp")
    got = {
        user: list(zip(*(getattr(history, name).tolist() for name in names), strict=True))
        for user, history in iter_histories(tmp_path / "out")
    }
    assert got == expected_sequences(EVENTS, end=1050)
