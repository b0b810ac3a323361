"""Changes of single values of a preset, written ``section.key=value``, with the value in TOML's notation."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from pinrec_core.config.presets import Preset, named_section
from pinrec_core.errors import ConfigError

SECTIONS = ("model", "objective", "training")


def apply_settings(preset: Preset, settings: Sequence[str]) -> Preset:
    """A copy of ``preset`` with settings such as ``objective.window=8`` applied.

    Raises ``ConfigError`` for an unknown name, and for a value that its section refuses.
    """
    for setting in settings:
        section, key, value = _parse(setting)
        current = getattr(preset, section)
        known = sorted(current if section == "model" else (f.name for f in fields(current)))
        if key not in known:
            raise ConfigError(f"--set {setting}: expected one of {known} after {section}.")
        if section == "model":  # its values are checked when the dataset has decided the rest
            changed = {**current, key: value}
        else:
            with named_section(section):
                changed = replace(current, **{key: value})
        changes: dict[str, Any] = {section: changed}
        preset = replace(preset, **changes)
    return preset


def _parse(setting: str) -> tuple[str, str, object]:
    name, equals, text = setting.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section in SECTIONS):
        raise ConfigError(f"--set {setting}: expected section.key=value with a section of {', '.join(SECTIONS)}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except ValueError:  # not TOML, or a number of thousands of digits
        value = text.strip()  # a bare word, such as the value of an enumeration
    return section, key.strip(), value
