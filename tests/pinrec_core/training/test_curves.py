"""TensorBoard: curves are written, a resumed run continues them, and a missing package is named."""

from __future__ import annotations

import sys

import pytest

from pinrec_core.errors import ConfigError
from tests.pinrec_core.training.small_training import train_small
from tests.pinrec_core.training.test_checkpoint import losses_until


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_curves_of_steps_and_epochs_go_on_where_a_killed_run_stopped(dataset, tmp_path):
    losses_until(dataset, tmp_path / "run", kill_at=9, checkpoint_seconds=0.0, tensorboard=tmp_path / "curves")
    run = train_small(
        dataset, tmp_path / "run", tensorboard=tmp_path / "curves", report_seconds=0.0, checkpoint_seconds=0.0
    )
    curves = scalars(tmp_path / "curves")
    assert sorted({step for step, _ in curves["train/loss"]}) == list(range(1, run.metrics["steps"] + 1))
    for name in ("loss", "held_out_loss", "interactions_per_second", "mfu"):
        expected = [epoch[name] for epoch in run.metrics["epochs"]]
        assert [value for _, value in curves[f"epoch/{name}"]] == pytest.approx(
            expected, rel=1e-6
        )  # float32 in the file


def test_without_the_package_it_names_the_extra(dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"expected the package tensorboard; pip install 'pinrec-on-triton\[train\]'"):
        train_small(dataset, tmp_path / "run", tensorboard=tmp_path / "curves")
