"""The benchmark of the GPU, run on a CPU with a recorder that needs none; and what it says where there is no GPU."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch

from benchmarks import bench_gpu, timing
from benchmarks.demo import Prepared
from benchmarks.floors import Floor
from benchmarks.generator_twins import gpt2_static, gpt2_stepping
from benchmarks.options import Options
from pinrec_core.errors import ConfigError
from tests.pinrec_core.generation.rerun import Rerun

TINY = replace(bench_gpu.SIZE, name="tiny", S=2, W=2)
OPTIONS = Options(quick=True, presets=(), prepared=Prepared(), release=None, threads_compared=(1,))


def quiet(_: str) -> None:
    """Show no progress."""


def test_the_rows_that_the_goals_ask_for_are_made(monkeypatch):
    monkeypatch.setattr(timing, "TURNS", 1)
    monkeypatch.setattr(Options, "seconds", 0.0)
    monkeypatch.setattr(bench_gpu, "BATCHES", (1, 2))
    monkeypatch.setattr(bench_gpu, "gpt2_static", lambda config, B, T, steps, **_: gpt2_stepping(config, B, T, steps))
    floor = Floor(name="", unit="FLOP", per_second=1e12)
    result = bench_gpu.measured(TINY, Rerun(), torch.float32, floor, OPTIONS, quiet)
    rows = [row.to_dict() for row in result.rows]
    made = [(row["case"], row["B"], row["what"]) for row in rows]
    assert {("tiny", B, what) for B in (1, 2) for what in ("generate", "captured", "stage")} <= set(made)
    for row in rows:
        assert row["requests/s"] == pytest.approx(row["B"] / row["median_ms"] * 1e3, rel=1e-2)  # both are rounded
        if row["what"] == "captured":
            assert abs(row["1 - cosine"]) < 1e-5  # float32


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_gpt2_with_a_static_cache_answers_what_it_does_with_its_own():
    """The baseline has to do the work that it is timed for, in one run as in the next."""
    sizes = (TINY.config, 2, 5, 3)
    torch.manual_seed(0)
    expected = gpt2_stepping(*sizes)()
    torch.manual_seed(0)
    run = gpt2_static(*sizes, device=torch.device("cpu"), dtype=torch.float32, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(run(), expected, atol=1e-4, rtol=0)  # float32 sums in another order, at scale 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_one_sentence_says_so():
    with pytest.raises(ConfigError, match="device='cuda': expected a CUDA device, which this machine lacks"):
        bench_gpu.run(OPTIONS, quiet)
