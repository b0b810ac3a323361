"""Values that are checked when they are built: configurations, manifests, run files, TOML mappings.

``validated`` turns a class into a dataclass whose fields pydantic checks whenever one is built. ``from_plain`` builds
one from nested mappings and lists, ``load_json`` from a file, and ``to_plain`` turns it back. A refusal is one sentence
that names the field, what it got and what it expected.

This module knows no configuration, and no file format beyond JSON and TOML.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from pinrec_core.errors import ConfigError, PinRecError

T = TypeVar("T")
Item = TypeVar("Item")
Choice = TypeVar("Choice", bound=StrEnum)

OneOf = Annotated[Choice, Strict(False)]
"""A member of an enumeration, or its value as text."""
ListOf = Annotated[tuple[Item, ...], Strict(False)]
"""A tuple, or a list, which JSON and TOML have instead."""
Text = Annotated[str, Field(min_length=1)]
"""A text that is not empty."""

_CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")
"""Strict: no value is converted to the type of its field. ``"5"`` is not a number and ``1`` is not a truth value."""


class FieldError(ValueError):
    """Raised by ``check``. It becomes the error of the class that is being built."""

    def __init__(self, field: str, got: object, expected: str) -> None:
        super().__init__(f"{field}={got!r}: expected {expected}")
        self.field, self.got, self.expected = field, got, expected


def check(condition: bool, field: str, got: object, expected: str) -> None:
    """Refuse ``field`` unless ``condition`` holds. For the ``__post_init__`` of a validated class.

    The message names the field by its full place, such as ``events.time_unit``, when the class is part of another one.
    """
    if not condition:
        raise FieldError(field, got, expected)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field, Field))
def validated(error: type[PinRecError] = ConfigError) -> Callable[[type[T]], type[T]]:
    """A decorator for a frozen, keyword-only dataclass with slots, which raises ``error`` when a field is not allowed.

    Bounds are written beside the type: ``layers: Annotated[int, Field(gt=0)]``. Types are strict, except that
    ``OneOf`` also takes the value of an enumeration and ``ListOf`` also takes a list. Unknown and missing fields are
    refused.
    """

    def decorate(cls: type[T]) -> type[T]:
        made: Any = pydantic_dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)(cls)
        checked = made.__init__

        def build(self: Any, **values: Any) -> None:
            try:
                checked(self, **values)
            except ValidationError as refused:
                raise error(_sentence(refused, made)) from refused

        made.__init__ = build
        return made

    return decorate


def from_plain(kind: type[T], raw: object, *, error: type[PinRecError] = ConfigError, source: Path | None = None) -> T:
    """A validated ``kind`` from mappings, lists, texts, numbers and truth values.

    Raises ``error``; its message begins with the file ``source`` if one is given.
    """
    try:
        # Through JSON, because pydantic's strict rules for JSON take a list for a tuple and a mapping for a class.
        return _adapter_of(kind).validate_json(json.dumps(raw, default=_refused_everywhere))
    except ValidationError as refused:
        sentence = _sentence(refused, kind)
        raise error(sentence if source is None else f"{source}: {sentence}") from refused


def to_plain(value: Any) -> dict[str, Any]:
    """A validated value as mappings, lists, texts, numbers and truth values."""
    return _adapter_of(type(value)).dump_python(value, mode="json")


def load_json(kind: type[T], path: Path, *, error: type[PinRecError], what: str, absent: str = "") -> T:
    """A validated ``kind`` from a JSON file.

    Raises ``error``, with the path in its message, when the file is missing, is not JSON, or holds what is not allowed.
    ``what`` says what the file should be, and ``absent`` what the user can do when it is missing.
    """
    return from_plain(kind, read_json(path, error=error, what=what, absent=absent), error=error, source=path)


def save_json(value: Any, path: Path) -> None:
    """Write a validated value so that ``load_json`` reads it back."""
    path.write_text(json.dumps(to_plain(value), indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path, *, error: type[PinRecError], what: str, absent: str = "") -> dict[str, Any]:
    """The unchecked table in a JSON file. Raises ``error`` as ``load_json`` does."""
    return _read(path, json.loads, "JSON", error, what, absent)


def read_toml(path: Path, *, error: type[PinRecError], what: str, absent: str = "") -> dict[str, Any]:
    """The unchecked table in a TOML file. Raises ``error`` as ``load_json`` does."""
    return _read(path, tomllib.loads, "TOML", error, what, absent)


def _read(
    path: Path, parse: Callable[[str], Any], language: str, error: type[PinRecError], what: str, absent: str
) -> dict[str, Any]:
    try:
        raw = parse(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as missing:
        raise error(f"{path}: expected {what}" + (f"; {absent}" if absent else "")) from missing
    except OSError as unreadable:
        raise error(f"{path}: expected {what} ({unreadable.strerror})") from unreadable
    except (ValueError, RecursionError) as damaged:  # the text is damaged, or its encoding, or it is nested too deeply
        raise error(f"{path}: expected {what} as {language} in UTF-8 ({damaged})") from damaged
    if not isinstance(raw, dict):
        raise error(f"{path}: expected {what}, a table of names and values")
    return raw


def _refused_everywhere(value: object) -> dict[str, str]:
    """What JSON does not have, such as a date of TOML, as a table: wherever it stands, the field is refused by name."""
    return {type(value).__name__: str(value)}


def _sentence(refused: ValidationError, kind: type) -> str:
    """One fault as field, got, expected: all unknown names of one table if there are any, else the first fault."""
    faults = refused.errors(include_url=False)
    unknown = [fault for fault in faults if fault["type"] == "unexpected_keyword_argument"]
    if unknown:  # before what is missing: a misspelt field is both
        place = unknown[0]["loc"][:-1]
        names = sorted(str(fault["loc"][-1]) for fault in unknown if fault["loc"][:-1] == place)
        keys = f"{_name(place)}.keys" if place else f"{kind.__name__} keys"
        known = sorted(field.name for field in dataclasses.fields(_class_at(place, kind)))
        return f"{keys}={names}: expected only {known}"
    fault = faults[0]
    name = _name(fault["loc"]) or kind.__name__
    if fault["type"] == "missing":
        return f"{name} is missing: expected a value"
    rule = fault.get("ctx", {}).get("error")
    if isinstance(rule, FieldError):
        return f"{_name((*fault['loc'], rule.field))}={_shown(rule.got)}: expected {rule.expected}"
    return f"{name}={_shown(fault['input'])}: expected {_expected(fault)}"


_EXPECTED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "int_type": lambda _: "a whole number",
    "int_from_float": lambda _: "a whole number",
    "float_type": lambda _: "a finite number",
    "finite_number": lambda _: "a finite number",
    "bool_type": lambda _: "true or false",
    "string_type": lambda _: "a text",
    "string_too_short": lambda c: (
        "a text that is not empty" if c["min_length"] == 1 else f"a length of at least {c['min_length']}"
    ),
    "string_too_long": lambda c: f"a length of at most {c['max_length']}",
    "string_pattern_mismatch": lambda c: f"a text of the form {c['pattern']}",
    "enum": lambda c: f"one of [{c['expected'].replace(' or ', ', ')}]",
    "greater_than": lambda c: f"a value above {_bound(c['gt'])}",
    "greater_than_equal": lambda c: f"a value of at least {_bound(c['ge'])}",
    "less_than": lambda c: f"a value below {_bound(c['lt'])}",
    "less_than_equal": lambda c: f"a value of at most {_bound(c['le'])}",
    "too_short": lambda c: f"at least {c['min_length']} of them",
    "tuple_type": lambda _: "a list",
    "dict_type": lambda _: "a table",
    "dataclass_type": lambda _: "a table",
    "dataclass_exact_type": lambda _: "a table",
    "is_instance_of": lambda c: f"a {c['class']}",
    "json_invalid": lambda c: f"what JSON can hold ({c['error']})",
}
"""What a field expects, by pydantic's name for the fault and its context. Other faults keep pydantic's own words."""


def _expected(fault: Mapping[str, Any]) -> str:
    phrase = _EXPECTED.get(fault["type"])
    if phrase is not None:
        return phrase(fault.get("ctx", {}))
    message = fault["msg"].removeprefix("Input should be ")
    return message[0].lower() + message[1:]


def _name(place: tuple[int | str, ...]) -> str:
    """``("events", "files", 0)`` → ``events.files[0]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _class_at(place: tuple[int | str, ...], kind: Any) -> Any:
    """The validated class at ``place`` within the type ``kind``."""
    for part in place:
        if dataclasses.is_dataclass(kind):
            kind = get_type_hints(kind)[str(part)]
        else:  # the elements of a list, or the values of a mapping
            kind = get_args(kind)[0 if isinstance(part, int) else 1]
        if get_origin(kind) in (Union, UnionType):  # of a class and None
            kind = next(option for option in get_args(kind) if option is not NoneType)
    return kind


def _bound(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _shown(got: object) -> str:
    """The value, cut where it is too long to be read in a sentence."""
    text = repr(got)
    return text if len(text) <= 200 else f"{text[:200]}…"


_adapter_of: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
"""Pydantic's validator of a class, built once."""
