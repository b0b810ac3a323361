"""A trained run and its indexed form, made once for the tests of training, release and stages."""

from __future__ import annotations

import pytest
import torch

from pinrec_core.config.sections import ObjectiveConfig, TrainingConfig
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.evaluation.cases import held_out_cases
from pinrec_core.evaluation.opening import known_request
from pinrec_core.generation.defaults import default_budget, default_compression_target, default_generation
from pinrec_core.release.calibration import index_run
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.training.run import Run
from pinrec_core.training.start import train
from tests.pinrec_core.builders import tiny_config, write_dataset

EVALUATION_SHARE = 0.3


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """These models are too small to share out; threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("walk") / "dataset")


def train_tiny(dataset, folder, seed: int = 0, epochs: int = 3, **model: int) -> Run:
    return train(
        dataset,
        folder,
        model_config=tiny_config(**model),
        objective_config=ObjectiveConfig(in_batch_negatives=64, random_negatives=64, window=2),
        training_config=TrainingConfig(
            epochs=epochs, batch_users=8, learning_rate=4e-3, seed=seed, evaluation_share=EVALUATION_SHARE
        ),
    )


@pytest.fixture(scope="session")
def run(dataset, tmp_path_factory) -> Run:
    return train_tiny(dataset, tmp_path_factory.mktemp("run"))


def indexed_model(run: Run, dataset) -> IndexedModel:
    cases = held_out_cases(dataset, ItemCatalogue.open(dataset), share=EVALUATION_SHARE, targets=4)
    budget = default_budget(run.model, DatasetManifest.load(dataset).outcome_share)
    known = [known_request(case, budget) for case in cases]
    return index_run(
        run, dataset, known, protocol="held-out", unseen=True,
        generation=default_generation(run.model), compression_target=default_compression_target(run.model),
    )  # fmt: skip


@pytest.fixture(scope="session")
def serving(run, dataset) -> IndexedModel:
    return indexed_model(run, dataset)
