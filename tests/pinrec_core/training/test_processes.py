"""Two processes under torchrun, with gloo on the CPU: they train one model by the mean of their gradients, each on its
own users."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pinrec_core.config.sections import Precision
from pinrec_core.errors import ConfigError
from pinrec_core.training.processes import Processes
from pinrec_core.training.run import Run
from tests.pinrec_core.training.one_of_two import USERS_PER_PROCESS, gradients
from tests.pinrec_core.training.small_training import assert_equal_weights, epoch_losses, train_small, weights
from tests.pinrec_core.training.torchrun import start, torchrun


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
        # Sums of float32 in another order. The gradient of the attention keys' bias is 0 but for such errors.
        tolerance = 1e-5 * max(float(expected.abs().max()), 1e-2)
        torch.testing.assert_close(first[name], expected, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def test_rows_split_over_processes_get_the_gradient_that_whole_tables_do(two_processes):
    """A training would not show a gradient of the wrong scale, because Adam divides by the scale."""
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
    assert counted == run.metrics["interactions"]  # because every interaction of this log is a target
    assert 0.7 < int(first["sketch.total"]) / int(second["sketch.total"]) < 1.4


def test_tables_that_are_split_over_processes_learn_what_whole_ones_do(two_processes):
    """The training with split tables is interrupted and resumed. Gradients are summed in another order; where they are
    small, Adam's division by their size enlarges the difference. Hence a tolerance of 1e-3, beside entries of about .3.
    """
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


@pytest.fixture(scope="module")
def failed(dataset, tmp_path_factory) -> Path:
    """The folders of the cases in which a write failed, beside the errors that ended them in each process."""
    out = tmp_path_factory.mktemp("failed")
    torchrun("-m", "tests.pinrec_core.training.failing_writes", dataset, out, seconds=120)
    return out


@pytest.mark.parametrize(
    ("case", "failing", "error"),
    [
        ("write-0", 0, r"StorageError: .*rank-0.safetensors: cannot be written \(.*File too large"),
        ("write-1", 1, r"StorageError: .*rank-1.safetensors: cannot be written \(.*File too large"),
        ("mkdir", 0, "FileExistsError: .*building"),
        ("rename", 0, "NotADirectoryError: .*building"),
        ("remove", 0, "NotADirectoryError: .*000000-000000000000"),
    ],
)
def test_a_checkpoint_that_one_process_cannot_write_fails_in_both(failed, case, failing, error):
    """Neither process waits for the other. The newest complete checkpoint is left, and no unfinished one."""
    assert re.search(error, (failed / f"{case}-{failing}.txt").read_text())
    expected = rf"StorageError: .*: cannot be written \(process {failing} failed, and says why\)"
    assert re.search(expected, (failed / f"{case}-{1 - failing}.txt").read_text())
    folders = sorted(path for path in (failed / case / "checkpoint").iterdir() if path.is_dir())
    # The second checkpoint is complete where only the removal of an older one failed.
    assert folders[-1].name == f"000000-{2 if case == 'remove' else 1:012d}"
    files = ["rank-0.safetensors", "rank-1.safetensors", "shared.safetensors", "state.json"]
    assert [sorted(path.name for path in folder.iterdir()) for folder in folders] == [files] * len(folders)


def test_a_finished_run_that_cannot_be_written_fails_in_both(failed):
    assert re.search("IsADirectoryError: .*weights.safetensors", (failed / "run-0.txt").read_text())
    assert re.search(r"StorageError: .*run: cannot be written \(process 0 failed", (failed / "run-1.txt").read_text())
    assert not (failed / "run" / "run.json").exists()


def test_a_process_leaves_the_others_before_its_interpreter_ends(failed):
    assert [(failed / f"joined-{rank}.txt").read_text() for rank in range(2)] == ["False", "False"]
