"""Configurations refuse values that are not allowed, and a setting changes one value of a preset."""

from __future__ import annotations

import pytest

from pinrec_core.config.presets import preset
from pinrec_core.config.sections import GenerationConfig, ModelConfig, ObjectiveConfig, TrainingConfig
from pinrec_core.config.settings import apply_settings
from pinrec_core.errors import ConfigError
from pinrec_core.validation import from_plain, to_plain
from tests.pinrec_core.builders import tiny_config


def test_settings_change_one_value_and_refuse_unknown_names():
    changed = apply_settings(preset("tiny"), ["objective.window=8", "model.layers=3", "objective.window_reduction=min"])
    assert (changed.objective.window, changed.model["layers"], changed.objective.window_reduction) == (8, 3, "min")
    assert preset("tiny").objective.window != 8
    for wrong, message in [
        ("objective.windw=8", r"--set objective.windw=8: expected one of \['horizon_days', .*\] after objective\."),
        ("training.epochs=abc", "training.epochs='abc': expected a whole number"),
        ("objective.sketch_width=1000000000000", "objective.sketch_width=1000000000000: expected a value of at most"),
        ("objective.horizon_days=1e300", "horizon_days=1e[+]300: expected a value of at most 36,525"),
        ("training.learning_rate=1" + 400 * "0", "expected a finite number"),
        ("training.epochs=" + 5000 * "1", "training.epochs='1+…: expected a whole number"),  # too long for TOML
    ]:
        with pytest.raises(ConfigError, match=message):
            apply_settings(preset("tiny"), [wrong])
    for wrong in ("window=8", "model.colour=1", "training.speed=2", "objective.window"):
        with pytest.raises(ConfigError, match=r"expected|keys"):
            apply_settings(preset("tiny"), [wrong])


def test_configurations_refuse_what_cannot_be():
    good = to_plain(tiny_config())
    for field, value, message in [
        ("heads", 5, "a multiple of heads=5"),
        ("id_rows", 100, "a power of two"),
        ("dropout", 1.0, "dropout=1.0: expected a value below 1$"),
        ("layers", 0, "above 0"),
        ("surprise", 1, "surprise"),
        ("layers", 1.5, "layers=1.5: expected a whole number"),
        ("layers", True, "expected a whole number"),
        ("id_rows", 1 << 40, "id_rows=1099511627776: expected a value of at most 4,294,967,296"),
        ("max_history", 10**10, "max_history=10000000000: expected a value of at most 1,048,576"),
        ("dropout", "a", "expected a finite number"),
        ("dropout", float("nan"), "expected a finite number"),
        ("id_width", -4, "id_width=-4: expected a value of at least 0"),
        ("variant", "x", "variant='x': expected one of"),
        ("offset_seconds", [0, 60], "offset_seconds=.*: expected max_offset=4 of them"),
        ("offset_seconds", [1, 2, 3, 4], "expected ascending seconds, the first of them 0"),
        ("offset_seconds", [0, 60, 60, 90], "expected ascending seconds"),
    ]:
        with pytest.raises(ConfigError, match=message):
            ModelConfig(**good | {field: value})
    assert ModelConfig(**good | {"offset_seconds": [0, 30, 60, 180]}).offset_seconds == (0, 30, 60, 180)
    of_next_items = ModelConfig(**good | {"variant": "oc", "offset_seconds": [0, 30, 60, 180]})
    assert (of_next_items.max_offset, of_next_items.offset_seconds) == (1, ())
    for wrong in ({"seed": -1}, {"warmup_share": 1.0}, {"weight_decay": -0.1}):
        with pytest.raises(ConfigError, match="expected a value"):
            TrainingConfig(**wrong)
    with pytest.raises(ConfigError, match="in_batch_negatives=-5"):
        ObjectiveConfig(in_batch_negatives=-5)
    with pytest.raises(ConfigError, match="with 1 among them"):
        GenerationConfig(offsets=(2, 3))
    assert from_plain(GenerationConfig, to_plain(GenerationConfig(offsets=(1, 4)))) == GenerationConfig(offsets=(1, 4))
