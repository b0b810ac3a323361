"""The memory of a tree of processes, and the slope of a series."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from load_tests.memory import FEWEST_SAMPLES, MemorySample, memory_result, sample
from tests.conftest import ROOT

MIB = 1 << 20
TREE = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "b = bytearray({40 * MIB}); print(flush=True); input()"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(flush=True)
input()
child.kill()
"""


@pytest.fixture
def tree() -> Iterator[subprocess.Popen]:
    """A process whose child holds 40 MiB."""
    process = subprocess.Popen([sys.executable, "-c", TREE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    yield process
    if process.poll() is None:
        process.communicate(b"\n")


def _sampled_elsewhere(pid: int) -> MemorySample:
    """Measured by another process, because a process leaves out itself and its children."""
    code = f"from load_tests.memory import sample; s = sample({pid}, 3.0); print(s.pss_mib, s.processes)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    pss_mib, processes = done.stdout.split()
    return MemorySample(3.0, float(pss_mib), int(processes))


def test_children_count_and_the_measuring_process_does_not(tree: subprocess.Popen):
    found = _sampled_elsewhere(tree.pid)
    assert found.processes == 2
    assert 40 < found.pss_mib < 200
    beside = sum(child.pid != tree.pid for child in psutil.Process().children())
    # The parent of both: this process, the tree, and whatever else the test run has started, but not who measures.
    assert _sampled_elsewhere(psutil.Process().pid).processes == 3 + beside
    assert sample(psutil.Process().pid, time=0.0).processes == 0


def test_a_process_that_has_ended_is_an_error(tree: subprocess.Popen):
    tree.communicate(b"\n")
    with pytest.raises(psutil.NoSuchProcess):
        sample(tree.pid, time=0.0)


def _series(pss: np.ndarray) -> list[MemorySample]:
    return [MemorySample(5.0 * number, float(value), 4) for number, value in enumerate(pss)]


def test_a_straight_line_has_its_slope_and_no_doubt():
    hours = np.arange(720) * 5.0 / 3600
    found = memory_result(_series(600 + 12 * hours))
    assert (found.first, found.last, found.highest) == (600, pytest.approx(612, abs=0.1), pytest.approx(612, abs=0.1))
    assert (found.slope, found.low, found.high) == (pytest.approx(12), pytest.approx(12), pytest.approx(12))


def test_the_interval_of_correlated_noise_covers_the_slope():
    """Noise that wanders: each sample keeps 0.8 of the last deviation. Independent errors would cover half as often."""
    hours = np.arange(720) * 5.0 / 3600
    covered = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        noise = np.zeros(720)
        for number in range(1, 720):
            noise[number] = 0.8 * noise[number - 1] + random.normal()
        found = memory_result(_series(600 + 3 * hours + noise))
        covered += found.low <= 3 <= found.high
    # Nominally 95%, a little less for a window of lags this short; 75% would be three standard deviations below 92%.
    assert covered >= 32


def test_growth_in_the_first_half_is_a_server_that_warms_up():
    found = memory_result(_series(np.concatenate([np.linspace(500, 700, 100), np.full(100, 700.0)])))
    assert (found.first, found.last, found.slope) == (500.0, 700.0, pytest.approx(0, abs=1e-6))


def test_few_samples_have_no_slope():
    found = memory_result(_series(np.arange(2 * FEWEST_SAMPLES - 2.0)))
    assert (found.first, found.slope, found.low) == (0.0, None, None)
    assert memory_result([]) is None
