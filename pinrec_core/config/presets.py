"""Named starting points: ``tiny`` for tests and the demo, ``small`` for a CPU, ``base`` for a production-size model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pinrec_core.config.sections import ModelConfig, ObjectiveConfig, TrainingConfig, Variant
from pinrec_core.errors import ConfigError, require
from pinrec_core.validation import validated


@validated()
class Preset:
    """A starting point for the three sections.

    ``model`` holds plain values, because it is incomplete: the dataset decides three sizes, and the user the variant.
    """

    model: Mapping[str, Any]
    objective: ObjectiveConfig
    training: TrainingConfig

    def model_for(self, *, variant: Variant, num_outcomes: int, num_surfaces: int, feature_width: int) -> ModelConfig:
        """The complete configuration of the model. Raises ``ConfigError``."""
        with named_section("model"):
            return ModelConfig(
                variant=variant,
                num_outcomes=num_outcomes,
                num_surfaces=num_surfaces,
                feature_width=feature_width,
                **self.model,
            )


PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        model={
            "layers": 2, "heads": 2, "hidden_width": 64, "item_width": 32, "embedder_layers": 2, "dropout": 0.0,
            "id_dropout": 0.0, "id_width": 32, "id_hashes": 2, "id_rows": 1 << 12, "max_history": 64,
            "max_steps": 8, "max_offset": 4, "offset_seconds": (),
        },
        objective=ObjectiveConfig(in_batch_negatives=512, random_negatives=512, windows_per_step=1024),
        training=TrainingConfig(epochs=12, batch_users=16, learning_rate=2e-3),
    ),
    "small": Preset(
        model={
            "layers": 4, "heads": 4, "hidden_width": 128, "item_width": 64, "embedder_layers": 2, "dropout": 0.1,
            "id_dropout": 0.0, "id_width": 64, "id_hashes": 2, "id_rows": 1 << 15, "max_history": 128,
            "max_steps": 8, "max_offset": 8, "offset_seconds": (),
        },
        objective=ObjectiveConfig(in_batch_negatives=1024, random_negatives=2048, windows_per_step=2048),
        training=TrainingConfig(epochs=10, batch_users=32, learning_rate=1.5e-3),
    ),
    "base": Preset(
        model={
            "layers": 12, "heads": 12, "hidden_width": 768, "item_width": 256, "embedder_layers": 3, "dropout": 0.1,
            "id_dropout": 0.0, "id_width": 256, "id_hashes": 4, "id_rows": 1 << 20, "max_history": 512,
            "max_steps": 16, "max_offset": 16, "offset_seconds": (),
        },
        objective=ObjectiveConfig(
            in_batch_negatives=8192, random_negatives=16384, windows_per_step=8192, sketch_width=1 << 22
        ),
        training=TrainingConfig(epochs=5, batch_users=64, learning_rate=3e-4, id_learning_rate=1e-3),
    ),
}  # fmt: skip


def preset(name: str) -> Preset:
    """The preset of that name. Raises ``ConfigError`` for a name that is not in ``PRESETS``."""
    require(name in PRESETS, "preset", name, f"one of {sorted(PRESETS)}", error=ConfigError)
    return PRESETS[name]


@contextmanager
def named_section(section: str) -> Iterator[None]:
    """Put the section before the field that a ``ConfigError`` names: ``model.layers``, as in ``--set``."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{section}.{error}") from error
