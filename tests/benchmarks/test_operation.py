"""What the drills make of what they saw."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.goals import most, total
from benchmarks.operation.load import OK, REFUSED, Sent, p99
from benchmarks.operation.overload import outcome, recovered
from benchmarks.operation.soak import slope_interval
from benchmarks.operation.swaps import BAD
from pinrec_core.errors import ReleaseError
from pinrec_core.release.manifest import verify_files
from tests.pinrec_serving.conftest import dataset, run, serving, triton, world

__all__ = ["dataset", "run", "serving", "triton", "world"]


def sent(due: float, latency_ms: float = 10.0, status: str = OK) -> Sent:
    return Sent(number=0, due=due, ended=due + latency_ms / 1e3, status=status)


def test_recovery_ends_with_the_last_window_that_was_wrong() -> None:
    calm = [sent(100 + 0.1 * n) for n in range(50)]
    assert recovered(calm, limit_ms=50) == 0.0
    refused = [*calm[:12], sent(101.25, status=REFUSED), *calm[13:]]
    assert recovered(refused, limit_ms=50) == 2.0
    slow = [*calm[:32], sent(103.25, latency_ms=900), *calm[33:]]
    assert recovered(slow, limit_ms=50) == 4.0
    assert recovered([*calm, sent(104.95, status="INTERNAL")], limit_ms=50) == float("inf")


def test_refused_is_not_failed() -> None:
    row = outcome([sent(0), sent(0, 20, REFUSED), sent(0, 30, "INTERNAL"), sent(0, 40, "DEADLINE_EXCEEDED")], 2.0)
    assert (row["served /s"], row["refused /s"], row["failed"]) == (0.5, 0.5, 2)
    assert row["refused p99 ms"] == pytest.approx(20)
    assert p99([sent(0, status=REFUSED)]) == 0.0


def test_a_slope_has_an_interval_that_holds_it() -> None:
    hours = np.linspace(0, 0.25, 180)
    noise = np.random.default_rng(1).normal(0, 2, len(hours))
    low, slope, high = slope_interval(hours, 1000 + 40 * hours + noise)
    assert low < 40 < high
    assert low < slope < high
    assert low > 0, "a growth of 10 MiB in noise of 2 is seen"
    low, _, high = slope_interval(hours, 1000 + noise)
    assert low < 0 < high


def test_every_bad_release_is_refused_and_the_good_one_is_not_touched(world: Path, tmp_path: Path) -> None:
    good = world / "releases" / "r1"
    for name, harm in BAD.items():
        copy = tmp_path / name.replace(" ", "-")
        shutil.copytree(good, copy, copy_function=lambda source, target: Path(target).hardlink_to(source))
        harm(copy)
        with pytest.raises(ReleaseError):
            verify_files(copy)
        verify_files(good)
        assert json.loads((good / "manifest.json").read_text())["release_id"] == "r1"


def test_goals_look_at_the_worst_round() -> None:
    rows = [{"stage": "a", "s": 1.0}, {"stage": "b", "s": 3.0}, {"stage": "all", "lost": 0}]
    assert most("s")(rows) == 3.0
    assert most("s", stage="a")(rows) == 1.0
    assert total("s")(rows) == 4.0
