"""Run folders: a run reads back as it was written, damage is named, and a finished run is not lost by accident."""

from __future__ import annotations

import json
import shutil

import pytest
import safetensors
import safetensors.torch
import torch

from pinrec_core.config.sections import ObjectiveConfig, TrainingConfig
from pinrec_core.errors import ConfigError, DataError, StorageError
from pinrec_core.training.metrics import Progress
from pinrec_core.training.run import Run
from pinrec_core.training.start import train
from tests.pinrec_core.builders import tiny_config
from tests.pinrec_core.training.small_training import assert_equal_weights, train_small, weights


def test_same_seed_same_weights(dataset, run, tmp_path):
    assert_equal_weights(weights(train_small(dataset, tmp_path).folder), weights(run.folder))


def test_a_run_reads_back_as_it_was_written(run):
    loaded = Run.load(run.folder)
    assert (loaded.model, loaded.objective, loaded.training) == (run.model, run.objective, run.training)
    assert loaded.identity == run.identity
    assert loaded.metrics["steps"] > 0
    assert [epoch["epoch"] for epoch in loaded.metrics["epochs"]] == [1, 2]


def test_what_cannot_be_trained_is_refused_before_training(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a folder to write to"):
        train_small(dataset, tmp_path / "file", training={"epochs": 10**9})
    with pytest.raises(ConfigError, match="device='nowhere': expected a torch device"):
        train(
            dataset, tmp_path / "run", model_config=tiny_config(), objective_config=ObjectiveConfig(),
            training_config=TrainingConfig(), device="nowhere",
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_replaced_only_when_asked_to(dataset, tmp_path):
    first = weights(train_small(dataset, tmp_path).folder)
    with pytest.raises(ConfigError, match="expected no finished run; --overwrite replaces it"):
        train_small(dataset, tmp_path, training={"seed": 1})
    assert_equal_weights(weights(tmp_path), first)
    train_small(dataset, tmp_path, training={"seed": 1}, overwrite=True)
    assert Run.load(tmp_path).training.seed == 1
    assert not torch.equal(weights(tmp_path)["model.head.out.weight"], first["model.head.out.weight"])


def test_a_loss_that_is_not_finite_ends_the_run(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"learning_rate=1e\+30, .*: expected values at which the loss stays finite"):
        train_small(dataset, tmp_path, training={"learning_rate": 1e30})
    with pytest.raises(ConfigError, match=r"weight_decay=1e\+30: expected values at which the loss stays finite"):
        train_small(dataset, tmp_path, training={"weight_decay": 1e30}, overwrite=True)
    assert not (tmp_path / "run.json").exists()


def test_nobody_to_train_on_is_a_clear_error(dataset, tmp_path):
    message = "there is nothing to learn from: .* evaluation_share=0.3 and held_out_last=1000 leave to train on"
    with pytest.raises(DataError, match=message):
        train_small(dataset, tmp_path, training={"held_out_last": 1000})


def test_a_damaged_run_is_named(run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    good = json.loads((folder / "run.json").read_text())
    for text, message in [
        ("{", "run.json: expected a finished training run as JSON"),
        ("[]", "run.json: expected a finished training run, a table"),
        ("{}", "dataset is missing: expected a value"),
        (json.dumps(good | {"model": good["model"] | {"variant": "x"}}), "variant='x': expected one of"),
    ]:
        (folder / "run.json").write_text(text)
        with pytest.raises(DataError, match=message):
            Run.load(folder)
    (folder / "run.json").write_text(json.dumps(good | {"model": good["model"] | {"hidden_width": 64}}))
    with pytest.raises(DataError, match="expected the weights of the model"):
        Run.load(folder).load_model()
    (folder / "weights.safetensors").write_bytes(b"junk")
    with pytest.raises(DataError, match="expected the weights of the model"):
        Run.load(folder).load_model()


def test_id_tables_start_from_those_of_another_run(dataset, run, tmp_path):
    """The tables are frozen here, so they do not change."""
    got = train_small(dataset, tmp_path, training={"epochs": 1, "id_learning_rate": 0.0}, id_tables=run.folder)
    tables = "model.id_embedding.tables.weight"
    assert torch.equal(weights(tmp_path)[tables], weights(run.folder)[tables])
    assert Run.load(tmp_path).id_tables == got.id_tables == run.folder


def test_id_tables_of_another_layout_or_log_or_none_are_refused(dataset, run, tmp_path):
    with pytest.raises(ConfigError, match="id_rows=256, expected 512, that of the model"):
        train_small(dataset, tmp_path / "a", model={"id_rows": 512}, id_tables=run.folder)
    # These tables have the same shape, but every key would have other rows.
    four = {"id_rows": 128, "id_hashes": 4, "id_width": 16}
    with pytest.raises(ConfigError, match="id_width=8, expected 16, that of the model"):
        train_small(dataset, tmp_path / "a", model=four, id_tables=run.folder)
    other = shutil.copytree(dataset, tmp_path / "other")
    manifest = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps(manifest | {"name": "another"}))
    with pytest.raises(ConfigError, match=r"pre-trained on a dataset with name='walk', expected 'another'"):
        train_small(other, tmp_path / "a", id_tables=run.folder)
    # The tables' log may have been moved or removed since the pre-training.
    pre_trained = shutil.copytree(run.folder, tmp_path / "pre-trained")
    plain = json.loads((pre_trained / "run.json").read_text())
    (pre_trained / "run.json").write_text(json.dumps(plain | {"dataset": str(tmp_path / "moved")}))
    with pytest.raises(ConfigError, match=r"pre-trained on a dataset with name='walk', expected 'another'"):
        train_small(other, tmp_path / "a", id_tables=pre_trained)
    train_small(dataset, tmp_path / "b", id_tables=pre_trained, training={"epochs": 1})
    with pytest.raises(DataError, match="expected a finished training run"):
        train_small(dataset, tmp_path / "c", id_tables=tmp_path)


def test_an_overwrite_that_is_refused_destroys_nothing(dataset, run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    with pytest.raises(ConfigError, match="that of the model"):
        train_small(dataset, folder, model={"id_rows": 512}, id_tables=run.folder, overwrite=True)
    with pytest.raises(DataError, match="nothing to learn from"):
        train_small(dataset, folder, training={"held_out_last": 1000}, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"tensorboard='.*file': expected a folder to write to"):
        train_small(dataset, folder, tensorboard=tmp_path / "file", overwrite=True)
    assert Run.load(folder).metrics == run.metrics
    assert_equal_weights(weights(folder), weights(run.folder))
    with pytest.raises(ConfigError, match="expected another folder than out"):
        train_small(dataset, folder, id_tables=folder, overwrite=True)


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        ({"held_out_last": 1}, "pre-trained with held_out_last=0, expected at least 1"),
        ({"evaluation_share": 0.9}, r"pre-trained with evaluation_share=\S+, expected at least 0.9"),
    ],
)
def test_id_tables_that_saw_what_is_held_out_are_refused(dataset, run, tmp_path, held_out, message):
    """Otherwise the tables would have seen the targets of an evaluation."""
    with pytest.raises(ConfigError, match=message):
        train_small(dataset, tmp_path, training=held_out, id_tables=run.folder)


def test_two_trainings_never_share_a_folder(dataset, run, tmp_path):
    """The second training is refused, with --overwrite too, and the first ends as if it had been alone."""
    refused = []

    def second(_: Progress) -> None:
        for overwrite in (False, True):
            with pytest.raises(ConfigError, match="expected no other process to train in it") as error:
                train_small(dataset, tmp_path, overwrite=overwrite)
            refused.append(error)

    first = train_small(dataset, tmp_path, report=second, report_seconds=0.0, checkpoint_seconds=0.0)
    assert refused
    assert_equal_weights(weights(first.folder), weights(run.folder))


def test_a_full_disk_is_named_and_leaves_no_half_of_a_file(dataset, run, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(StorageError, match=r"rank-0.safetensors: cannot be written .*No space left on device"):
            train_small(dataset, tmp_path, checkpoint_seconds=0.0)
        assert not list((tmp_path / "checkpoint").iterdir())
        with pytest.raises(StorageError, match=r"weights.safetensors: cannot be written .*No space left on device"):
            train_small(dataset, tmp_path, training={"epochs": 1})
    assert not (tmp_path / "weights.safetensors").exists()
    train_small(dataset, tmp_path)
    assert_equal_weights(weights(tmp_path), weights(run.folder))


def test_sizes_beyond_memory_are_named(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"id_rows=4294967296, .*: expected sizes that fit into memory \(tried to"):
        train_small(dataset, tmp_path, model={"id_rows": 1 << 32, "id_width": 1 << 14})
