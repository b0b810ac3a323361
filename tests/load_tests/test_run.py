"""``python -m load_tests`` and ``locust`` against a real Triton.

Each runs in a process of its own, because Locust patches the standard library of the process that it is in.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from load_tests.workload import MIX
from tests.client.conftest import StandIn
from tests.load_tests.conftest import WriteDataset

ROOT = Path(__file__).parents[2]


def _run(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *shlex.split(line)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.triton
def test_a_run_reports_every_request_type(integer_service: StandIn, write_dataset: WriteDataset):
    run = _run(
        f"load_tests --url {integer_service.url} --dataset {write_dataset()} --json - "
        "--rate 60 --users 2 --duration 3 --warm-up 0.5 --request-timeout 10"
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert set(report["results"]) == {t.name for t in MIX} | {"all"}
    total = report["results"]["all"]
    assert total["failures"] == 0
    # A Poisson count of mean 180 leaves this range once in a hundred million runs.
    assert 110 < total["requests"] < 270
    assert total["requests"] == sum(r["requests"] for n, r in report["results"].items() if n != "all")
    assert 0 < total["p50"] <= total["p95"] <= total["p99"] <= total["slowest"]
    assert {"pinrec", "stand_in", "signal_ingest"} <= set(report["models"])


@pytest.mark.triton
def test_failures_above_the_threshold_set_the_exit_status(integer_service: StandIn, write_dataset: WriteDataset):
    # Every request on this surface fails. That is about one request in eleven.
    dataset = write_dataset(surfaces=("", "error:INTERNAL"))
    line = f"load_tests --url {integer_service.url} --dataset {dataset} --rate 60 --duration 2 --warm-up 0 --no-writes"
    strict = _run(line)
    assert strict.returncode == 1, strict.stderr
    assert "ServerError: INTERNAL: user_id=-1" in strict.stdout
    lenient = _run(f"{line} --max-failure-share 0.5")
    assert lenient.returncode == 0, lenient.stderr


@pytest.mark.triton
def test_arrivals_do_not_wait_for_answers(integer_service: StandIn, write_dataset: WriteDataset):
    # Each request on this surface holds the stand-in, which works one batch at a time, for half a second.
    dataset = write_dataset(surfaces=("", "wait:0.5"))
    run = _run(
        f"load_tests --url {integer_service.url} --dataset {dataset} --json - --no-writes "
        "--rate 40 --users 1 --duration 2 --warm-up 0 --request-timeout 30"
    )
    assert run.returncode == 0, run.stderr
    # The schedule has 80 arrivals. A closed loop would send about 25: nine in 0.2 s, then it waits for half a second.
    assert json.loads(run.stdout)["results"]["all"]["requests"] > 45


@pytest.mark.triton
def test_locust_runs_the_same_file(integer_service: StandIn, write_dataset: WriteDataset):
    run = _run(
        f"locust -f load_tests/locustfile.py --host {integer_service.url} --dataset {write_dataset()} "
        "--headless --users 2 --spawn-rate 2 --user-rate 30 --run-time 4s --only-summary"
    )
    assert run.returncode == 0, run.stderr
    assert "known user, 10 items" in run.stderr + run.stdout


def test_what_cannot_be_run_is_refused_in_a_sentence(tmp_path: Path, write_dataset: WriteDataset):
    no_dataset = _run(f"load_tests --dataset {tmp_path}")
    assert no_dataset.returncode == 2
    assert "run `pinrec prepare` first" in no_dataset.stderr
    no_server = _run(f"load_tests --dataset {write_dataset()} --url 127.0.0.1:1")
    assert no_server.returncode == 2
    assert "--url=127.0.0.1:1" in no_server.stderr
    assert "Traceback" not in no_dataset.stderr + no_server.stderr
