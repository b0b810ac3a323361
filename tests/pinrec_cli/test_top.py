"""``pinrec top``: its figures from two readings of the metrics, and what it prints of them."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pinrec_cli.main import app
from pinrec_cli.top import table
from pinrec_cli.top_figures import Figures, Reading, figures
from pinrec_core.errors import ConfigError, ServerError

STAGE = 'stage="generator",release="r1"'
MODEL = 'model="generator",release="r1",version="1"'


def text(*, requests: int = 0, failed: int = 0, queue_us: int = 0, seconds: float = 0, batches: int = 0) -> str:
    return f"""# TYPE pinrec_ready gauge
pinrec_ready 1
pinrec_release_info{{release="r1",dataset="d",variant="oc",index="FLAT"}} 1
pinrec_serving_since_timestamp_seconds{{release="r1"}} 1000
pinrec_swaps_total{{result="failed"}} 2
# TYPE pinrec_requests counter
pinrec_requests_total{{{STAGE},result="ok"}} {requests}
pinrec_requests_total{{{STAGE},result="internal"}} {failed}
pinrec_requests_total{{{STAGE},result="unavailable"}} 1
pinrec_requests_total{{{STAGE},result="invalid"}} 4
pinrec_requests_total{{stage="signal_ingest",release="",result="ok"}} 0
pinrec_stage_restarts_total{{{STAGE}}} 3
pinrec_compute_seconds_sum{{{STAGE}}} {seconds}
pinrec_compute_seconds_count{{{STAGE}}} {batches}
pinrec_batch_requests_sum{{{STAGE}}} {requests}
pinrec_batch_requests_count{{{STAGE}}} {batches}
pinrec_process_resident_memory_bytes{{{STAGE},pid="1"}} 1048576
pinrec_process_resident_memory_bytes{{{STAGE},pid="2"}} 2097152
# TYPE nv_inference_request_success counter
nv_inference_request_success{{model="pinrec",version="1"}} {requests}
nv_inference_request_success{{{MODEL}}} {requests}
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{{{MODEL}}} {queue_us}
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{{{MODEL}}} 5
# TYPE nv_inference_request_summary_us summary
nv_inference_request_summary_us{{model="pinrec",version="1",quantile="0.5"}} 12000
nv_inference_request_summary_us{{model="pinrec",version="1",quantile="0.99"}} Nan
"""


BEFORE = Reading(text(requests=100, queue_us=1000, seconds=1.0, batches=50), moment=10.0)
NOW = Reading(text(requests=120, failed=2, queue_us=41_000, seconds=1.5, batches=60), moment=12.0)


def test_figures_are_what_happened_between_two_readings():
    shown = figures(BEFORE, NOW)
    assert (shown.ready, shown.release, shown.since, shown.swaps_failed) == (True, "r1", 1000.0, 2)
    assert shown.requests_per_second == 10  # 20 in 2 seconds
    assert (shown.p50_ms, shown.p99_ms) == (12.0, None)
    generator, ingest = shown.stages
    assert (generator.stage, generator.release, generator.processes) == ("generator", "r1", 2)
    assert generator.requests_per_second == 11  # with the two that failed
    assert generator.queue_ms == pytest.approx(2.0)  # 40 ms over 20 requests
    assert generator.compute_ms == pytest.approx(50.0)  # half a second over 10 batches
    assert generator.batch == 2
    assert (generator.pending, generator.failed, generator.invalid, generator.restarts) == (5, 3, 4, 3)
    assert generator.memory_bytes == 3 << 20
    assert (ingest.stage, ingest.processes, ingest.queue_ms, ingest.batch) == ("signal_ingest", 0, None, None)


def test_a_service_that_was_started_anew_has_no_negative_figures():
    shown = figures(NOW, BEFORE)
    assert shown.requests_per_second == 0
    assert shown.stages[0].queue_ms is None


def printed(shown: Figures, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table(shown, now=1000 + 2 * 86_400 + 3 * 3600 + 5))
    return console.file.getvalue().splitlines()


def test_the_table_says_what_serves_for_how_long_and_fits_into_80_columns():
    lines = printed(figures(BEFORE, NOW), 80)
    assert lines[0].strip() == "release r1 for 2d 3h"
    assert any("10.0 req/s, p50 12.0 ms, p99 - ms" in line for line in lines)
    (generator,) = (line.split() for line in lines if "generator" in line)
    assert generator == ["generator", "2", "11.0", "2.0", "50.0", "2.0", "5", "3", "4", "3", "3"]


def test_during_a_swap_the_table_tells_the_releases_apart():
    shown = figures(BEFORE, NOW)
    other = replace(shown.stages[0], release="r2")
    lines = printed(replace(shown, stages=[*shown.stages, other]), 100)
    assert [line.split()[1] for line in lines if "generator" in line] == ["r1", "r2"]


def test_nobody_there_is_a_sentence():
    result = CliRunner().invoke(app, ["top", "--once", "--url", "127.0.0.1:1"])
    assert isinstance(result.exception, ServerError)
    assert "127.0.0.1:1/metrics: expected the metrics of a service" in str(result.exception)


def test_json_is_for_one_reading():
    result = CliRunner().invoke(app, ["top", "--json"])
    assert isinstance(result.exception, ConfigError)
