"""``python -m load_tests`` and ``locust`` against a real Triton.

Each runs in a process of its own, because Locust patches the standard library of the process that it is in.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from load_tests.mix import REQUEST_TYPES
from tests.client.conftest import StandIn
from tests.load_tests.conftest import WriteDataset

ROOT = Path(__file__).parents[2]


def _run(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *shlex.split(line)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.triton
def test_a_run_reports_every_request_type(integer_service: StandIn, write_dataset: WriteDataset, write_slo, tmp_path):
    page = tmp_path / "report.html"
    run = _run(
        f"load_tests --url {integer_service.url} --dataset {write_dataset()} --json - --html {page} "
        f"--slo {write_slo()} --rate 60 --users 2 --duration 3 --warm-up 0.5 --request-timeout 9 --freshness-interval 0"
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert set(report["results"]) == set(REQUEST_TYPES) | {"all"}
    total = report["results"]["all"]
    assert total["accepted"] == total["requests"]
    # A Poisson count of mean 180 leaves this range once in a hundred million runs.
    assert 110 < total["requests"] < 270
    assert total["requests"] == sum(r["requests"] for n, r in report["results"].items() if n != "all")
    assert 0 < total["p50"] <= total["p95"] <= total["p99"] <= total["slowest"]
    assert {"pinrec", "stand_in", "signal_ingest"} <= set(report["models"])
    assert report["stage_timeline"], "the counters were read during the run, too"
    assert 0 < report["driver"]["share"] < 2
    assert page.read_text("utf-8").count("<svg") == 4  # latency, rates, queue, compute


@pytest.mark.triton
def test_what_the_objectives_miss_sets_the_exit_status(
    integer_service: StandIn, write_dataset: WriteDataset, write_slo
):
    # Every request on this surface fails. That is about one request in eleven. The stand-in forgets what is written.
    dataset = write_dataset(surfaces=("", "error:INTERNAL"))
    line = f"load_tests --url {integer_service.url} --dataset {dataset} --rate 60 --duration 2 --warm-up 0 --no-writes"
    strict = _run(f"{line} --slo {write_slo('failure_share = 0.0')}")
    assert strict.returncode == 1, strict.stderr
    assert "ServerError: INTERNAL: user_id=-1" in strict.stdout
    assert re.search(r"failure_share +│ all +│ ≤ 0.00% +│ [1-9][\d.]+% +│ NO", strict.stdout)
    lenient = _run(f"{line} --slo {write_slo('failure_share = 0.5')}")
    assert lenient.returncode == 0, lenient.stderr


@pytest.mark.triton
def test_a_ramp_ends_where_the_service_refuses(integer_service: StandIn, write_dataset: WriteDataset, write_slo):
    # About one request in ten is refused, at any rate.
    dataset = write_dataset(surfaces=("", "error:UNAVAILABLE"))
    run = _run(
        f"load_tests --url {integer_service.url} --dataset {dataset} --json - --no-writes --slo {write_slo()} "
        "--shape ramp --rate 40 --factor 2 --duration 1.5 --warm-up 0 --request-timeout 1"
    )
    assert run.returncode == 1, run.stderr  # not even the first step was held
    report = json.loads(run.stdout)
    steps = report["ramp"]["steps"]
    assert [step["rate"] for step in steps] == [40, 80], "it stops after two saturated steps"
    assert report["ramp"]["held"] is None
    assert "refused, allowed 0.0%" in report["ramp"]["reason"]
    total = report["results"]["all"]
    assert total["refused"] > 0
    assert total["failures"] == 0, "a refusal is no failure"
    assert report["slo"][0]["met"] is False


@pytest.mark.triton
def test_arrivals_do_not_wait_for_answers(integer_service: StandIn, write_dataset: WriteDataset, write_slo):
    # Each request on this surface holds the stand-in, which works one batch at a time, for half a second.
    dataset = write_dataset(surfaces=("", "wait:0.5"))
    run = _run(
        f"load_tests --url {integer_service.url} --dataset {dataset} --json - --no-writes --slo {write_slo()} "
        "--rate 40 --users 1 --duration 2 --warm-up 0 --request-timeout 30"
    )
    assert run.returncode == 0, run.stderr
    # The schedule has 80 arrivals. A closed loop would send about 25: nine in 0.2 s, then it waits for half a second.
    assert json.loads(run.stdout)["results"]["all"]["requests"] > 45


@pytest.mark.triton
def test_locust_runs_the_same_file(integer_service: StandIn, write_dataset: WriteDataset):
    run = _run(
        f"locust -f load_tests/locustfile.py --host {integer_service.url} --dataset {write_dataset()} "
        "--headless --users 2 --spawn-rate 2 --user-rate 30 --run-time 4s --only-summary --freshness-interval 0"
    )
    assert run.returncode == 0, run.stderr
    assert "known user, 10 items" in run.stderr + run.stdout
    assert "Ramping to 2 users" in run.stderr, "without a choice it is the shape that follows Locust's own options"


def test_what_cannot_be_run_is_refused_in_a_sentence(tmp_path: Path, write_dataset: WriteDataset):
    no_dataset = _run(f"load_tests --dataset {tmp_path}")
    assert no_dataset.returncode == 2
    assert "run `pinrec prepare` first" in no_dataset.stderr
    no_server = _run(f"load_tests --dataset {write_dataset()} --url 127.0.0.1:1")
    assert no_server.returncode == 2
    assert "--url='127.0.0.1:1': expected a service that is ready" in no_server.stderr
    assert "Traceback" not in no_dataset.stderr + no_server.stderr
