"""A load test of the whole service, as an operator runs it: its own log as the mix, a spike, objectives, freshness."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.end_to_end.conftest import Prepared, Server

pytestmark = pytest.mark.triton


def test_a_spike_is_reported_with_stages_freshness_and_memory(ml100k: Prepared, ml100k_server: Server, tmp_path):
    slo = tmp_path / "slo.toml"
    slo.write_text("failure_share = 0.0\nfreshness_p99_ms = 20_000\n", "utf-8")  # generous: no time is judged here
    command = [
        sys.executable, "-m", "load_tests", "--url", ml100k_server.url, "--dataset", ml100k.dataset,
        "--mix", "log", "--shape", "spike", "--rate", 5, "--factor", 3, "--duration", 5, "--spike-duration", 2,
        "--recovery-duration", 6, "--warm-up", 1, "--request-timeout", 30, "--freshness-interval", 1,
        "--server-pid", ml100k_server.process.pid, "--slo", slo, "--json", "-", "--html", tmp_path / "report.html",
    ]  # fmt: skip
    run = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["results"]["all"]["failures"] == 0
    assert set(report["stages"]) == {
        "pinrec", "signal_fetch", "id_embedder", "generator", "faiss_retrieval", "signal_ingest",
    }  # fmt: skip
    assert report["spike"]["before"]["accepted"] > 0
    freshness = report["freshness"]
    assert freshness["invisible"] == 0
    assert freshness["probes"] > 0
    assert freshness["p50"] > 0
    sample = report["memory"]["samples"][0]
    assert sample["processes"] >= 6, "pinrec serve, Triton and four stages"
    assert sample["pss_mib"] > 100
    assert "<svg" in (tmp_path / "report.html").read_text("utf-8")
