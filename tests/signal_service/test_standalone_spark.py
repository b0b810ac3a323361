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
dataset, out, master, end, *previous = sys.argv[1:]
Path(out).mkdir()
report = write_sequences(
    Path(dataset), Path(out), master=master, end_time=int(end), lookback_days=None, max_interactions_per_user=2048,
    driver_memory="512m", previous=Path(previous[0]) if previous else None, progress=lambda _: None,
)
print(report.incremental, report.users)
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
        assert run(dataset, tmp_path / "first", spark.url, 1030) == "False 4"
        assert run(dataset, tmp_path / "second", spark.url, 1050, tmp_path / "first") == "True 4"
        with urllib.request.urlopen(f"{spark.page}/json/", timeout=60) as answer:
            state = json.load(answer)
    assert [worker["state"] for worker in state["workers"]] == ["ALIVE", "ALIVE"]
    assert [job["state"] for job in state["completedapps"]] == ["FINISHED", "FINISHED"]
    assert all((tmp_path / f"work-{number}").glob("app-*/*/stderr") for number in range(2))
    names = ("item_key", "item_type", "outcome", "surface", "timestamp")
    for name, end in (("first", 1030), ("second", 1050)):
        histories = iter_histories(tmp_path / name)
        got = {
            user: list(zip(*(getattr(history, n).tolist() for n in names), strict=True)) for user, history in histories
        }
        assert got == expected_sequences(EVENTS, end=end)
