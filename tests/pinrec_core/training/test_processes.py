"""Two processes under torchrun, with gloo on the CPU: one model, the mean of their gradients, each its own users."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pinrec_core.config.sections import ObjectiveConfig, Precision, Variant
from pinrec_core.errors import ConfigError
from pinrec_core.objective.objective import Objective
from pinrec_core.training.processes import Processes
from pinrec_core.training.run import Run
from pinrec_core.training.sharded_tables import shard_id_tables
from tests.pinrec_core.builders import tiny_model
from tests.pinrec_core.training.one_of_two import USERS_PER_PROCESS, gradients
from tests.pinrec_core.training.small_training import assert_equal_weights, epoch_losses, train_small, weights

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[3]


def start(*command: object) -> subprocess.Popen[str]:
    """Two processes that run ``command``."""
    arguments = [BIN / "torchrun", "--standalone", "--nproc-per-node", 2, *command]
    scripts = os.pathsep.join([str(BIN), os.environ["PATH"]])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": scripts}
    return subprocess.Popen(
        [*map(str, arguments)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def torchrun(*command: object) -> tuple[str, str]:
    """What they wrote to stdout and stderr."""
    process = start(*command)
    written, errors = process.communicate()
    assert process.returncode == 0, errors
    return written, errors


@pytest.fixture(scope="module")
def two_processes(dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("two")
    torchrun("-m", "tests.pinrec_core.training.one_of_two", dataset, out)
    return out


def of_both(out: Path, case: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    first, second = (safetensors.torch.load_file(out / f"{case}-{rank}.safetensors") for rank in range(2))
    return first, second


def test_two_step_by_the_gradient_of_one_on_all_their_users(dataset, two_processes, tmp_path):
    first, second = of_both(two_processes, "gradients")
    alone = Processes.launch(torch.device("cpu"), Precision.FP32)
    gradients(dataset, alone, list(range(2 * USERS_PER_PROCESS)), tmp_path / "one.safetensors")
    for name, expected in safetensors.torch.load_file(tmp_path / "one.safetensors").items():
        assert torch.equal(first[name], second[name]), name
        # Sums of float32 in another order; a key's bias has no gradient but theirs.
        tolerance = 1e-5 * max(float(expected.abs().max()), 1e-2)
        torch.testing.assert_close(first[name], expected, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def test_rows_split_over_processes_get_the_gradient_that_whole_tables_do(two_processes):
    """Adam would hide a wrong scale: it divides by it."""
    tables = "model.id_embedding.tables.weight"
    whole = of_both(two_processes, "gradients")[0][tables]
    assert whole.any()
    for rank, shard in enumerate(of_both(two_processes, "sharded_gradients")):
        # Sums of float32 in another order.
        torch.testing.assert_close(shard[tables], whole[rank::2], rtol=0, atol=1e-5 * float(whole.abs().max()))


def test_after_a_training_the_weights_agree_and_each_has_counted_its_own_users(two_processes):
    first, second = of_both(two_processes, "training")
    own = {"sketch.counts", "sketch.total"}
    assert [name for name in first if not torch.equal(first[name], second[name])] == sorted(own)
    run = Run.load(two_processes / "run")
    counted = int(first["sketch.total"] + second["sketch.total"])
    assert counted == run.metrics["interactions"]  # every interaction of that log is a target
    assert 0.7 < int(first["sketch.total"]) / int(second["sketch.total"]) < 1.4


def test_tables_that_are_split_over_processes_learn_what_whole_ones_do(two_processes):
    """Stopped and resumed on the way. The rows' gradients are summed in another order, which Adam's division by their
    size makes visible where they are small: hence 1e-3, beside entries of about .3."""
    sharded, whole = weights(two_processes / "sharded"), weights(two_processes / "run")
    assert sharded.keys() == whole.keys()
    for name, expected in whole.items():
        torch.testing.assert_close(sharded[name], expected, rtol=0, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def train_command(dataset: Path, out: Path, *options: object) -> list[object]:
    settings = ("model.hidden_width=16", "objective.windows_per_step=64", "training.batch_users=8", "model.dropout=0.1")
    fixed = ["--no-python", "pinrec", "train", dataset, "--out", out, "--preset", "tiny", "--epochs", 4, *options]
    return fixed + [word for setting in settings for word in ("--set", setting)]


def test_the_command_prints_once_and_a_killed_one_goes_on(dataset, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    written, errors = torchrun(*train_command(dataset, whole, "--json"))
    metrics = json.loads(written)
    assert metrics["steps"] == Run.load(whole).metrics["steps"] > 0
    assert errors.count("epoch 1/4  loss") == 1
    assert sorted(path.name for path in whole.iterdir()) == [".lock", "run.json", "weights.safetensors"]

    process = start(*train_command(dataset, killed, "--checkpoint-seconds", 0))
    while not list((killed / "checkpoint").glob("000001-*")):  # pytest's own timeout bounds it
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    one_of_them = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
    os.kill(int(one_of_them), signal.SIGKILL)  # torchrun then ends the other
    process.communicate()
    assert process.returncode != 0
    assert not (killed / "run.json").exists()
    _, errors = torchrun(*train_command(dataset, killed))
    assert errors.count("resuming the unfinished run") == 1
    assert_equal_weights(weights(killed), weights(whole))
    assert epoch_losses(Run.load(killed).metrics) == epoch_losses(metrics)


def test_interrupted_together_they_leave_a_checkpoint_of_one_step(dataset, tmp_path):
    process = start(*train_command(dataset, tmp_path, "--epochs", 100_000))
    assert process.stderr is not None
    while "epoch 1/" not in process.stderr.readline():  # pytest's own timeout bounds it
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGTERM)  # torchrun passes it on
    _, errors = process.communicate()
    assert "pinrec: interrupted; the same command goes on from epoch" in errors
    (left,) = (tmp_path / "checkpoint").iterdir()
    assert sorted(path.name for path in left.glob("rank-*")) == ["rank-0.safetensors", "rank-1.safetensors"]
    assert not (tmp_path / "run.json").exists()


def test_a_run_of_two_is_not_resumed_by_one(dataset, tmp_path):
    def stop(_: object) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train_small(dataset, tmp_path, checkpoint_seconds=0.0, report=stop)
    path = next((tmp_path / "checkpoint").glob("*/state.json"))
    state = json.loads(path.read_text())
    state["configuration"]["processes"] = 2
    path.write_text(json.dumps(state))
    with pytest.raises(ConfigError, match="processes=1: expected 2, as the unfinished run in"):
        train_small(dataset, tmp_path)


def test_a_numbered_device_cannot_be_shared(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="device='cuda:1': expected 'cuda' under torchrun"):
        Processes.launch(torch.device("cuda:1"), Precision.FP32)


def test_tables_that_cannot_be_shared_out_evenly_are_refused_before_training():
    """They could be looked up, and would fail to come together again after the last epoch."""
    objective = Objective(tiny_model(Variant.OC), ObjectiveConfig(), catalogue_size=120)
    with pytest.raises(ConfigError, match=r"id_rows=\d+: expected 2 tables of them to divide among 3 processes"):
        shard_id_tables(objective, rank=0, count=3)
