"""A training small enough to be run many times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from pinrec_core.config.sections import ObjectiveConfig, TrainingConfig, Variant
from pinrec_core.training.run import Run
from pinrec_core.training.start import train
from tests.pinrec_core.builders import tiny_config

EVALUATION_SHARE = 0.3
SMALL = TrainingConfig(
    epochs=2, batch_users=16, learning_rate=4e-3, evaluation_share=EVALUATION_SHARE, validation_users=8
)


def train_small(
    dataset: Path, folder: Path, *, variant: Variant = Variant.MT_OC, model: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None, **options: Any,
) -> Run:  # fmt: skip
    return train(
        dataset,
        folder,
        model_config=tiny_config(variant, **{"max_history": 6, "max_steps": 3, "dropout": 0.1} | (model or {})),
        objective_config=ObjectiveConfig(in_batch_negatives=64, random_negatives=64, windows_per_step=64, window=2),
        training_config=replace(SMALL, **(training or {})),
        **options,
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "weights.safetensors")


def assert_equal_weights(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Fail unless all tensors agree bit for bit."""
    assert got.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(got[name], expected[name])] == []


def epoch_losses(run: dict[str, Any]) -> list[tuple[float, float | None]]:
    return [(epoch["loss"], epoch["held_out_loss"]) for epoch in run["epochs"]]
