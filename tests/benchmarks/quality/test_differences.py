"""Comparing figures: times are left out, and everything else is compared to the last digit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.quality.__main__ import app
from benchmarks.quality.differences import differences
from pinrec_core.errors import DataError

FIGURES = {
    "study": "s",
    "runs": {"uc": {"seeds": {"0": {"commits": ["a"], "training": {"loss": 1.5, "seconds": 3.0, "epochs": [2.5]}}}}},
    "comparisons": {"uc:steps-16:latency.median_ms / uc:steps-1:latency.median_ms": {"ratio": 0.1}},
}


def written(folder: Path, name: str, figures: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(json.dumps(figures), "utf-8")
    return path


def test_only_what_is_not_a_time_is_compared(tmp_path):
    other = json.loads(json.dumps(FIGURES).replace('"a"', '"b"').replace("3.0", "4.0").replace("0.1", "0.2"))
    before, after = written(tmp_path, "before.json", FIGURES), written(tmp_path, "after.json", other)
    assert differences(before, after) == (3, [])
    assert CliRunner().invoke(app, ["compare", str(before), str(after)]).exit_code == 0


def test_a_last_digit_and_what_is_absent_are_named(tmp_path):
    other = json.loads(json.dumps(FIGURES).replace("2.5", "2.5000001"))
    del other["runs"]["uc"]["seeds"]["0"]["training"]["loss"]
    before, after = written(tmp_path, "before.json", FIGURES), written(tmp_path, "after.json", other)
    compared, lines = differences(before, after)
    assert compared == 3
    assert lines == [
        "runs.uc.seeds.0.training.epochs[0]: 2.5, now 2.5000001",
        "runs.uc.seeds.0.training.loss: 1.5, now 'absent'",
    ]
    done = CliRunner().invoke(app, ["compare", str(before), str(after)])
    assert (done.exit_code, done.stdout.splitlines()) == (1, lines)


def test_other_files_are_refused(tmp_path):
    good = written(tmp_path, "good.json", FIGURES)
    with pytest.raises(DataError, match=r"absent\.json: expected figures"):
        differences(good, tmp_path / "absent.json")
    empty = written(tmp_path, "empty.json", {})
    with pytest.raises(DataError, match="expected figures of a study"):
        differences(empty, empty)
