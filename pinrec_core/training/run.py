"""A finished training run: a folder with ``run.json`` (configuration, dataset, metrics) and ``weights.safetensors``
(model, temperature, sketch). This module does not know how the run was trained.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from pinrec_core.config.sections import ModelConfig, ObjectiveConfig, TrainingConfig
from pinrec_core.dataset.manifest import DatasetIdentity
from pinrec_core.errors import ConfigError, DataError
from pinrec_core.files.file_writing import save_tensors
from pinrec_core.model.device import torch_device
from pinrec_core.model.sequence_model import ItemModel, SequenceModel
from pinrec_core.model.variants import generative_model
from pinrec_core.objective.objective import Objective
from pinrec_core.validation import from_plain, read_json, to_plain, validated

RUN_FILE = "run.json"
WEIGHTS_FILE = "weights.safetensors"
LOG_INVERSE_TEMPERATURE = "log_inverse_temperature"
ID_TABLES = "model.id_embedding.tables.weight"
"""The name of the ID tables in the weights of any run."""


@validated(DataError)
class Run:
    """A finished training run: its folder, and the content of its ``run.json``."""

    folder: Path
    dataset: Path
    identity: DatasetIdentity  # of the dataset at the time of training; another one may stand at that path today
    model: ModelConfig
    objective: ObjectiveConfig
    training: TrainingConfig
    metrics: dict[str, Any]
    id_tables: Path | None = None  # the run folder of the pre-training that the ID tables started from

    @staticmethod
    def load(folder: Path) -> Run:
        """Raises ``DataError`` when ``run.json`` is absent or not what ``train`` writes."""
        path = Path(folder) / RUN_FILE
        raw = read_json(path, error=DataError, what="a finished training run", absent="make one with `pinrec train`")
        return from_plain(Run, {**raw, "folder": str(folder)}, error=DataError, source=path)

    def save(self, objective: Objective) -> None:
        """Write the weights, then ``run.json``, so that the weights beside a ``run.json`` always belong to it.

        Raises ``StorageError`` or ``OSError`` where they cannot be written.
        """
        (self.folder / RUN_FILE).unlink(missing_ok=True)
        save_tensors(objective.state_dict(), self.folder / WEIGHTS_FILE)
        id_tables = None if self.id_tables is None else self.id_tables.resolve()
        plain = to_plain(replace(self, dataset=self.dataset.resolve(), id_tables=id_tables))
        del plain["folder"]  # a run may be moved
        beside = self.folder / f".{RUN_FILE}.{os.getpid()}"
        beside.write_text(json.dumps(plain, indent=2) + "\n", "utf-8")
        beside.rename(self.folder / RUN_FILE)

    def inverse_temperature(self) -> float:
        """The λ that the objective learned, capped. Raises ``DataError`` when the weights are absent or damaged."""
        path = self.folder / WEIGHTS_FILE
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                learned = math.exp(file.get_tensor(LOG_INVERSE_TEMPERATURE))
        except (OSError, safetensors.SafetensorError) as error:
            raise DataError(f"{path}: expected the weights of a training run ({error})") from error
        return min(learned, self.objective.max_inverse_temperature)

    def load_model(self, device: torch.device | str = "cpu") -> SequenceModel:
        """The trained model in evaluation mode.

        Raises ``DataError`` when the weights are absent, damaged or those of another model.
        """
        path = self.folder / WEIGHTS_FILE
        model = generative_model(self.model)
        try:
            weights = safetensors.torch.load_file(path)
            model.load_state_dict({k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")})
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{path}: expected the weights of the model that {RUN_FILE} describes ({reason})"
            ) from error
        return model.to(torch_device(device)).eval()


def load_id_tables(model: ItemModel, run: Path, training: TrainingConfig, dataset: DatasetIdentity) -> None:
    """Copy the ID tables, ``[K·rows, I/K]``, that an ID pre-training left in the folder ``run`` into ``model``.

    Raises ``DataError`` where there are none. Raises ``ConfigError`` where they are of another dataset, where ``model``
    would look a key up in other rows than the pre-training did, and where they were trained on interactions that
    ``training`` holds out: the model would be judged on what its tables have seen.
    """
    source = Run.load(run)
    for name, got, expected in source.identity.differences(dataset):
        if name in ("name", "item_id_kind"):  # the tables do not depend on the others
            raise ConfigError(
                f"id_tables={str(run)!r}: pre-trained on a dataset with {name}={got!r}, expected {expected!r}: "
                "an id of one log is another item in the next"
            )
    for name in ("id_width", "id_hashes", "id_rows"):  # tables can agree in shape although these differ
        got, expected = getattr(source.model, name), getattr(model.config, name)
        if got != expected:
            raise ConfigError(f"id_tables={str(run)!r}: {name}={got}, expected {expected}, that of the model")
    for name in ("evaluation_share", "held_out_last"):
        got, expected = getattr(source.training, name), getattr(training, name)
        if got < expected:
            raise ConfigError(
                f"id_tables={str(run)!r}: pre-trained with {name}={got}, expected at least {expected}, which this "
                "training holds out for evaluation"
            )
    path, tables = run / WEIGHTS_FILE, model.id_embedding.tables.weight
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            found = file.get_tensor(ID_TABLES)
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(f"{path}: expected the weights of an ID pre-training ({error})") from error
    with torch.no_grad():
        tables.copy_(found)


def make_writable(folder: Path) -> None:
    """Make the folder where it is missing. Raises ``ConfigError`` where nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"out={str(folder)!r}: expected a folder to write to ({error.strerror})") from error


def clear(folder: Path) -> None:
    """Remove a finished run. Other files of the folder stay."""
    for name in (RUN_FILE, WEIGHTS_FILE):
        (folder / name).unlink(missing_ok=True)
