"""A killed run that is resumed has exactly the losses and weights of an uninterrupted one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pinrec_core.config.sections import Variant
from pinrec_core.errors import ConfigError, DataError
from pinrec_core.training.metrics import Progress
from pinrec_core.training.run import Run
from pinrec_core.training.stop_signals import stop_signals
from tests.pinrec_core.training.small_training import assert_equal_weights, epoch_losses, train_small, weights


class KilledError(Exception):
    """Raised by a report, to end the training there as a crash would."""


def losses_until(dataset, folder, *, kill_at: int | None = None, **options) -> list[tuple[float, float]]:
    """The share and loss of every report of a training, which ends like a crash at the report ``kill_at``."""
    seen: list[tuple[float, float]] = []

    def report(progress: Progress) -> None:
        seen.append((progress.share, progress.loss))
        if len(seen) == kill_at:
            raise KilledError

    try:
        train_small(dataset, folder, report=report, report_seconds=0.0, **options)
    except KilledError:
        assert not (folder / "run.json").exists()
    return seen


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """The folder and the reports of an uninterrupted run. Each of two epochs reports 24 steps and its end."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, losses_until(dataset, folder)


@pytest.mark.parametrize(("kill_at", "repeated"), [(1, 1), (10, 1), (25, 2), (26, 1), (49, 1), (50, 2)])
def test_resumed_at_any_step_it_is_the_same_training(dataset, whole, tmp_path, kill_at, repeated):
    """The checkpoint was written before the step of the last report, which is repeated. If the last report was that of
    the end of an epoch, both that report and the step before it are repeated."""
    folder, expected = whole
    assert len(expected) == 50
    killed = losses_until(dataset, tmp_path, kill_at=kill_at, checkpoint_seconds=0.0)
    resumed = losses_until(dataset, tmp_path, checkpoint_seconds=0.0)
    assert killed == expected[:kill_at]
    assert resumed == expected[kill_at - repeated :]
    assert_equal_weights(weights(tmp_path), weights(folder))
    got, want = Run.load(tmp_path).metrics, Run.load(folder).metrics
    assert epoch_losses(got) == epoch_losses(want)
    assert (got["steps"], got["interactions"]) == (want["steps"], want["interactions"])


@pytest.mark.parametrize(
    ("variant", "training"),
    [
        (Variant.MT_OC, {"accumulate_batches": 3}),
        (Variant.OC, {"precision": "bf16", "accumulate_batches": 2}),
        (Variant.PINNERFORMER, {"id_learning_rate": 0.0}),
        (Variant.SASREC, {"held_out_last": 2, "evaluation_share": 0.0}),
    ],
)
def test_resumed_with_accumulation_in_bf16_and_for_baselines(dataset, tmp_path, variant, training):
    options = {"variant": variant, "training": training | {"batch_users": 8}, "model": {"id_width": 16}}
    expected = losses_until(dataset, tmp_path / "whole", **options)
    kill_at = 2 * len(expected) // 3
    losses_until(dataset, tmp_path / "killed", kill_at=kill_at, checkpoint_seconds=0.0, **options)
    resumed = losses_until(dataset, tmp_path / "killed", **options)
    assert resumed == expected[-len(resumed) :]
    assert_equal_weights(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


def test_without_a_checkpoint_in_time_it_goes_on_from_the_end_of_an_epoch(dataset, whole, tmp_path):
    _, expected = whole
    losses_until(dataset, tmp_path, kill_at=len(expected) - 2)
    assert losses_until(dataset, tmp_path) == expected[25:]
    assert not (tmp_path / "checkpoint").exists()


def test_it_says_that_it_resumes_and_a_folder_has_one_checkpoint(dataset, tmp_path):
    said: list[str] = []
    losses_until(dataset, tmp_path, kill_at=5, checkpoint_seconds=0.0, announce=said.append)
    assert said == []
    (left,) = (tmp_path / "checkpoint").iterdir()
    assert sorted(path.name for path in left.iterdir()) == ["rank-0.safetensors", "shared.safetensors", "state.json"]
    (tmp_path / "checkpoint" / ".building").mkdir()  # left by a run that was killed while it wrote the next checkpoint
    train_small(dataset, tmp_path, announce=said.append, checkpoint_seconds=0.0)
    assert said == [f"resuming the unfinished run in {tmp_path}: epoch 1, step 4"]
    assert not (tmp_path / "checkpoint").exists()


def test_a_run_of_another_configuration_is_not_resumed(dataset, tmp_path):
    losses_until(dataset, tmp_path, kill_at=5, checkpoint_seconds=0.0)
    with pytest.raises(ConfigError, match=r"model.layers=3, training.seed=1: expected 2, 0, as the unfinished run in"):
        train_small(dataset, tmp_path, training={"seed": 1}, model={"layers": 3})
    said: list[str] = []
    train_small(dataset, tmp_path, training={"seed": 1}, overwrite=True, announce=said.append)
    assert said == [f"discarding the unfinished run in {tmp_path}: epoch 1, step 4"]
    assert Run.load(tmp_path).training.seed == 1


def test_a_damaged_checkpoint_is_named(dataset, tmp_path):
    losses_until(dataset, tmp_path, kill_at=5, checkpoint_seconds=0.0)
    (left,) = (tmp_path / "checkpoint").iterdir()
    state = (left / "state.json").read_text()
    (left / "state.json").write_text(state.replace('"steps": 4', '"steps": "4"'))
    with pytest.raises(DataError, match=r"expected a checkpoint of `pinrec train` \(.*position\.steps='4': expected a"):
        train_small(dataset, tmp_path)
    (left / "state.json").write_text(state)
    content = (left / "shared.safetensors").read_bytes()
    (left / "shared.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="expected a checkpoint of `pinrec train`"):
        train_small(dataset, tmp_path)


def test_a_process_that_is_killed_resumes_when_the_command_is_given_again(dataset, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert pinrec_train(dataset, whole).wait() == 0
    process = pinrec_train(dataset, killed, "--checkpoint-seconds", "0")
    while not list((killed / "checkpoint").glob("000003-*")):  # pytest's own timeout bounds it
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "run.json").exists()

    again = pinrec_train(dataset, killed)
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    assert "resuming the unfinished run" in errors
    assert_equal_weights(weights(killed), weights(whole))
    got, want = (json.loads((folder / "run.json").read_text())["metrics"] for folder in (killed, whole))
    assert epoch_losses(got) == epoch_losses(want)


MANY = 100_000
"""Epochs, so many that the signal comes before the last of them ends."""


@pytest.mark.parametrize(("number", "overwrite"), [(signal.SIGINT, ()), (signal.SIGTERM, ("--overwrite",))])
def test_an_interrupted_process_loses_nothing(dataset, tmp_path, number, overwrite):
    process = pinrec_train(dataset, tmp_path / "run", *overwrite, epochs=MANY)
    assert process.stderr is not None
    while "epoch 1/" not in process.stderr.readline():  # pytest's own timeout bounds it
        assert process.poll() is None, "it ended before it could be interrupted"
    process.send_signal(number)
    _, errors = process.communicate()
    (left,) = (tmp_path / "run" / "checkpoint").iterdir()
    epoch, steps = map(int, left.name.split("-"))
    command = "the same command without --overwrite" if overwrite else "the same command"
    said = f"pinrec: interrupted; {command} goes on from epoch {epoch + 1}, step {steps:,}"
    assert (process.returncode, errors.splitlines()[-1]) == (130, said)
    again = pinrec_train(dataset, tmp_path / "run", epochs=MANY)
    assert again.stderr is not None
    said = f"resuming the unfinished run in {tmp_path / 'run'}: epoch {epoch + 1}, step {steps:,}"
    assert said in again.stderr.readline()
    again.kill()
    again.communicate()


def test_a_second_signal_ends_at_once():
    """The first signal only requests a stop. After the block the earlier handler is in place again."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stop_signals(second_ends=True) as stop:  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        signal.raise_signal(signal.SIGINT)
    with stop_signals(second_ends=False) as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
    assert signal.getsignal(signal.SIGINT) is before


def pinrec_train(dataset, out, *options: str, epochs: int = 8) -> subprocess.Popen[str]:
    settings = ("model.hidden_width=16", "objective.windows_per_step=64", "training.batch_users=8", "model.dropout=0.1")
    command = [Path(sys.executable).parent / "pinrec", "train", dataset, "--out", out, "--preset", "tiny", *options]
    command += ["--epochs", epochs, *(word for setting in settings for word in ("--set", setting))]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True, env=one_thread)
