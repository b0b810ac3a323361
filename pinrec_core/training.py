"""Training (PinRec, objective): streams the batch job's sequences, minimises the objective, writes a run folder.

A run folder holds ``run.json`` (configuration, dataset, metrics) and ``weights.safetensors`` (model, temperature,
sketch). Memory is bounded by the shuffle buffer, not by the log.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pinrec_core.catalogue import ItemCatalogue
from pinrec_core.collate import collate, pad
from pinrec_core.config import ModelConfig, ObjectiveConfig, TrainingConfig
from pinrec_core.dataset import DatasetManifest
from pinrec_core.device import torch_device
from pinrec_core.errors import ConfigError, DataError
from pinrec_core.history import NO_OUTCOME, History
from pinrec_core.model import PinRec
from pinrec_core.objective import Objective, TrainingBatch
from pinrec_core.sequences import BatchInfo, is_evaluation_user, iter_histories

RUN_FILE = "run.json"
WEIGHTS_FILE = "weights.safetensors"
SEQUENCES = Path("signals/sequences")
SHUFFLE_BUFFER = 4096
"""Histories held at once to mix users that lie together in a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished training run, as ``run.json`` describes it."""

    folder: Path
    dataset: Path
    model: ModelConfig
    objective: ObjectiveConfig
    training: TrainingConfig
    metrics: dict[str, Any]

    @staticmethod
    def load(folder: Path) -> Run:
        """Raises ``DataError`` when ``run.json`` is absent or not what ``train`` writes."""
        path = Path(folder) / RUN_FILE
        if not path.is_file():
            raise DataError(f"{path}: expected a finished training run; make one with `pinrec train`")
        try:
            raw = json.loads(path.read_text("utf-8"))
            return Run(
                folder=Path(folder),
                dataset=Path(raw["dataset"]),
                model=ModelConfig.from_dict(raw["model"]),
                objective=ObjectiveConfig.from_dict(raw["objective"]),
                training=TrainingConfig.from_dict(raw["training"]),
                metrics=raw["metrics"],
            )
        except KeyError as error:
            raise DataError(f"{path}: key {error} is missing: expected what `pinrec train` writes") from error
        except (ValueError, TypeError, ConfigError) as error:
            raise DataError(f"{path}: expected what `pinrec train` writes, {error}") from error

    def save(self) -> None:
        plain = {
            "dataset": str(self.dataset.resolve()),
            "model": self.model.to_dict(),
            "objective": self.objective.to_dict(),
            "training": self.training.to_dict(),
            "metrics": self.metrics,
        }
        beside = self.folder / f".{RUN_FILE}.{os.getpid()}"
        beside.write_text(json.dumps(plain, indent=2) + "\n", "utf-8")
        beside.rename(self.folder / RUN_FILE)

    def load_model(self, device: torch.device | str = "cpu") -> PinRec:
        """The trained model in evaluation mode. Raises ``DataError`` when the weights are absent, damaged or others."""
        path = self.folder / WEIGHTS_FILE
        model = PinRec(self.model)
        try:
            weights = safetensors.torch.load_file(path)
            model.load_state_dict({k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")})
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{path}: expected the weights of the model that {RUN_FILE} describes ({reason})"
            ) from error
        return model.to(torch_device(device)).eval()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What the caller is told after each step."""

    epoch: int
    share: float  # of the whole run
    loss: float  # mean over the recent steps
    interactions: int  # seen so far


def train(
    dataset: Path,
    folder: Path,
    *,
    model_config: ModelConfig,
    objective_config: ObjectiveConfig,
    training_config: TrainingConfig,
    device: str = "cpu",
    report: Callable[[Progress], None] = lambda _: None,
) -> Run:
    """Train on the users that are not held out.

    Raises ``DataError`` when none of them has an interaction with an outcome, ``ConfigError`` for a device that is
    not there or a ``folder`` that cannot be written: before the training, not after it.
    """
    target_device = torch_device(device)
    torch.manual_seed(training_config.seed)
    generator = np.random.default_rng(training_config.seed)
    catalogue = ItemCatalogue.open(dataset)
    info = BatchInfo.load(dataset / SEQUENCES)
    _check_manifest(DatasetManifest.load(dataset), info)
    _make_writable(folder)
    model = PinRec(model_config).to(target_device)
    objective = Objective(model_config, objective_config, catalogue_size=len(catalogue)).to(target_device)
    optimizer = torch.optim.AdamW(_parameter_groups(model, objective, training_config))
    base_rates = [group["lr"] for group in optimizer.param_groups]

    model.train()
    interactions = steps = 0
    recent = 0.0
    for epoch in range(training_config.epochs):
        for share_of_epoch, histories in epoch_batches(
            dataset / SEQUENCES, info, model_config, training_config, generator
        ):
            share = (epoch + share_of_epoch) / training_config.epochs
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate * learning_rate_factor(share, training_config.warmup_share)
            batch = _training_batch(histories, model, catalogue, objective_config, generator, target_device)
            loss = objective(model, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), training_config.gradient_clip)
            optimizer.step()
            objective.cap_temperature()
            interactions += sum(len(h) for h in histories)
            steps += 1
            # One read of the loss per step, for the progress line; on a CPU it costs nothing.
            recent = loss.item() if steps == 1 else 0.95 * recent + 0.05 * loss.item()
            report(Progress(epoch=epoch, share=share, loss=recent, interactions=interactions))
    if steps == 0:
        raise DataError(
            f"{dataset}: expected an interaction with an outcome by a user outside the evaluation share; "
            "there is nothing to learn from"
        )

    run = Run(
        folder=folder, dataset=dataset, model=model_config, objective=objective_config, training=training_config,
        metrics={"final_loss": recent, "steps": steps, "interactions": interactions},
    )  # fmt: skip
    _write(run, model, objective)
    return run


def epoch_batches(
    sequences: Path, info: BatchInfo, model: ModelConfig, training: TrainingConfig, generator: np.random.Generator
) -> Iterator[tuple[float, list[History]]]:
    """One pass over the training users: (share of the pass, in (0, 1], B histories of at most ``max_history``).

    A long history is cut into stretches at an offset drawn anew each epoch, so that every position learns from
    contexts of every length. Within the shuffle buffer, histories of similar length share a batch.
    """
    buffer: list[History] = []
    seen = drained = 0  # users read, and users whose histories have left the buffer

    def drain() -> Iterator[tuple[float, list[History]]]:
        order = np.argsort([len(h) + generator.random() for h in buffer])
        batches = [order[i : i + training.batch_users] for i in range(0, len(order), training.batch_users)]
        for done, i in enumerate(generator.permutation(len(batches)), start=1):
            users = drained + (seen - drained) * done / len(batches)
            yield users / max(1, info.num_users), [buffer[j] for j in batches[i]]
        buffer.clear()

    for user_id, history in iter_histories(sequences):
        seen += 1
        if is_evaluation_user(user_id, training.evaluation_share):
            continue
        buffer.extend(stretches(history, model.max_history, generator))
        if len(buffer) >= SHUFFLE_BUFFER:
            yield from drain()
            drained = seen
    yield from drain()


def stretches(history: History, length: int, generator: np.random.Generator) -> Iterator[History]:
    """Cut a history into consecutive stretches of at most ``length``; one without a target teaches nothing.

    A single interaction is kept: it teaches the start token what a user without history does.
    """
    start = 0
    end = len(history) if len(history) <= length else int(generator.integers(1, length + 1))
    while start < len(history):
        if (history.outcome[start:end] != NO_OUTCOME).any():
            yield history.take(slice(start, end))
        start, end = end, min(end + length, len(history))


def learning_rate_factor(share: float, warmup_share: float) -> float:
    """Linear warm-up, then a cosine to a tenth of the peak."""
    if share < warmup_share:
        return max(share / warmup_share, 0.01)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (share - warmup_share) / (1 - warmup_share)))


def _training_batch(
    histories: list[History],
    model: PinRec,
    catalogue: ItemCatalogue,
    objective: ObjectiveConfig,
    generator: np.random.Generator,
    device: torch.device,
) -> TrainingBatch:
    item_key = pad([h.item_key for h in histories]).to(device)
    B, T = item_key.shape
    id_embedding = model.id_embedding(item_key.flatten()).unflatten(0, (B, T))
    drawn = generator.integers(0, len(catalogue), size=objective.random_negatives)
    return TrainingBatch(
        history=collate(histories, id_embedding),
        item_key=item_key,
        outcome=pad([h.outcome for h in histories], fill=NO_OUTCOME).long().to(device),
        random_key=torch.from_numpy(catalogue.item_key[drawn]).to(device),
        random_feature=torch.from_numpy(catalogue.feature[drawn]).to(device),
        random_scale=torch.from_numpy(catalogue.scale[drawn]).to(device),
    )


def _parameter_groups(model: PinRec, objective: Objective, config: TrainingConfig) -> list[dict[str, Any]]:
    """ID tables learn at their own rate and without decay (most rows see no gradient in a step); so do vectors."""
    tables = [model.id_embedding.tables]
    rest: list[Tensor] = [p for p in [*model.parameters(), *objective.parameters()] if p is not tables[0]]
    return [
        {"params": tables, "lr": config.id_learning_rate, "weight_decay": 0.0},
        {"params": [p for p in rest if p.ndim > 1], "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "lr": config.learning_rate, "weight_decay": 0.0},
    ]


def _write(run: Run, model: PinRec, objective: Objective) -> None:
    """The weights, then ``run.json``: where that is, the weights beside it are its own."""
    (run.folder / RUN_FILE).unlink(missing_ok=True)
    weights = {f"model.{k}": v.cpu().contiguous() for k, v in model.state_dict().items()}
    weights |= {f"objective.{k}": v.cpu().contiguous() for k, v in objective.state_dict().items()}
    safetensors.torch.save_file(weights, run.folder / WEIGHTS_FILE)
    run.save()


def _make_writable(folder: Path) -> None:
    """The folder, made where it is missing. Raises ``ConfigError`` where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"out={str(folder)!r}: expected a folder to write to ({error.strerror})") from error


def _check_manifest(manifest: DatasetManifest, info: BatchInfo) -> None:
    if (info.feature_space, tuple(info.outcomes), tuple(info.surfaces)) != (
        manifest.feature_space, manifest.outcomes, manifest.surfaces,
    ):  # fmt: skip
        raise DataError("signals/sequences were made from another preparation of the dataset; run the batch job again")
