"""Starts processes under ``torchrun``, for tests of gloo on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[3]


def start(*command: object, processes: int = 2) -> subprocess.Popen[str]:
    """Start ``processes`` processes that run ``command``."""
    arguments = [BIN / "torchrun", "--standalone", "--nproc-per-node", processes, *command]
    scripts = os.pathsep.join([str(BIN), os.environ["PATH"]])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": scripts}
    return subprocess.Popen(
        [*map(str, arguments)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def torchrun(*command: object, processes: int = 2, seconds: float = 300.0) -> tuple[str, str]:
    """Run ``command`` → what its processes wrote to stdout and stderr.

    The test fails when the command fails, or has not ended after ``seconds``.
    """
    process = start(*command, processes=processes)
    try:
        written, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun then ends the processes that it started
        _, errors = process.communicate()
        pytest.fail(f"the processes were still running after {seconds} s:\n{errors}")
    assert process.returncode == 0, errors
    return written, errors
