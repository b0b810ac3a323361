"""The drills of the signal service run in their short form, and their results are what the goals look for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import goals
from benchmarks.machine import machine_card
from benchmarks.signals.__main__ import Part, main
from benchmarks.signals.parts import PARTS


def run(out: Path, *parts: str) -> dict[str, list[dict]]:
    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, [*parts, "--quick", "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return {part: json.loads(next(out.glob(f"signals_{part}-*.json")).read_text("utf-8"))["rows"] for part in parts}


def test_every_part_can_be_named():
    assert {str(part) for part in Part} == PARTS.keys()


def test_timings_and_the_fuzzer_make_the_rows_that_the_goals_look_for(tmp_path):
    rows = run(tmp_path, "features", "ingest", "fuzz")
    assert all(0 < row["events/s"] and 0 < row["visible p50, ms"] <= row["visible p99, ms"] for row in rows["ingest"])
    assert {row["ids"] for row in rows["fuzz"]} == {"int64", "string"}
    assert sum(row["findings"] for row in rows["fuzz"]) == 0
    # An INT8 code of a width has one byte per value and one FP32 scale besides.
    assert [row["bytes over FP32"] for row in rows["features"]] == [
        pytest.approx((row["width"] + 4) / (4 * row["width"])) for row in rows["features"]
    ]
    found = {(line.goal, line.case): line.value for line in goals.collect(tmp_path, machine_card().slug)}
    measured = [key for key, value in found.items() if value is not None]
    assert ("20,000 requests with events, most of them malformed", "findings") in measured
    assert ("append to the embedded store in batches of 100, one core, without the stage", "events/s, disk") in measured
    assert ("INT8 features, median cosine to FP32", "the worst width") in measured
