"""Plain data to values: the one validator of configurations, manifests, run files and TOML mappings.

``validated`` makes a dataclass whose fields are checked by pydantic when it is built, whoever builds it. ``from_plain``
and ``load_json`` build one from a mapping or a file, and ``to_plain`` turns it back. Whatever is refused is refused
with one sentence that names the field, what was got and what was expected.

This module knows no configuration and no file format beyond JSON and TOML.
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
"""A member of an enumeration, or its name as text."""
ListOf = Annotated[tuple[Item, ...], Strict(False)]
"""A tuple, or a list as JSON and TOML have it."""
Text = Annotated[str, Field(min_length=1)]
"""A text that is not empty."""

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""No value is converted to the type that a field wants: ``"5"`` is no number and ``1`` is no truth value."""


class FieldError(ValueError):
    """A field of the value that is being built is refused by a rule of its own; see ``check``."""

    def __init__(self, field: str, got: object, expected: str) -> None:
        super().__init__(f"{field}={got!r}: expected {expected}")
        self.field, self.got, self.expected = field, got, expected


def check(condition: bool, field: str, got: object, expected: str) -> None:
    """For the ``__post_init__`` of a validated class: refuse ``field`` unless ``condition`` holds.

    Whoever reports it puts the place of the value in front of the field: ``events.time_unit``.
    """
    if not condition:
        raise FieldError(field, got, expected)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field, Field))
def validated(error: type[PinRecError] = ConfigError) -> Callable[[type[T]], type[T]]:
    """A decorator: a frozen, keyword-only dataclass with slots that raises ``error`` for what its fields do not allow.

    Types are strict, and bounds are written beside them: ``layers: Annotated[int, Field(gt=0)]``. ``OneOf`` and
    ``ListOf`` take an enumeration by name and a list for a tuple. Unknown and missing fields are refused.
    """

    def decorate(cls: type[T]) -> type[T]:
        made: Any = pydantic_dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)(cls)
        checked = made.__init__

        def build(self: Any, **values: Any) -> None:
            try:
                checked(self, **values)
            except ValidationError as refused:
                raise error(sentence(refused, made)) from refused

        made.__init__ = build
        return made

    return decorate


def from_plain(
    kind: type[T], raw: object, *, error: type[PinRecError] = ConfigError, where: str = "", source: Path | None = None
) -> T:
    """A validated ``kind`` from plain data: mappings, lists, texts, numbers.

    Raises ``error``. In front of the field's name stand the file ``source`` and, with a dot, ``where``.
    """
    try:
        # By way of JSON: pydantic's strict rules for it take a list for a tuple and a mapping for a nested value.
        return _adapter_of(kind).validate_json(json.dumps(raw, default=str))
    except ValidationError as refused:
        reason = sentence(refused, kind, where)
        raise error(reason if source is None else f"{source}: {reason}") from refused


def to_plain(value: Any) -> dict[str, Any]:
    """A validated value as what JSON can hold."""
    return _adapter_of(type(value)).dump_python(value, mode="json")


def load_json(kind: type[T], path: Path, *, error: type[PinRecError], what: str, absent: str = "") -> T:
    """A validated ``kind`` from a JSON file. ``what`` says what the file should be, ``absent`` what to do without it.

    Raises ``error`` with the path in front when the file is missing, no JSON, or refused.
    """
    return from_plain(kind, read_json(path, error=error, what=what, absent=absent), error=error, source=path)


def save_json(value: Any, path: Path) -> None:
    """Write a validated value so that ``load_json`` reads it back."""
    path.write_text(json.dumps(to_plain(value), indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path, *, error: type[PinRecError], what: str, absent: str = "") -> dict[str, Any]:
    """The table that a JSON file holds, unchecked. Raises ``error`` as ``load_json`` does."""
    return _read(path, json.loads, "JSON", error, what, absent)


def read_toml(path: Path, *, error: type[PinRecError], what: str, absent: str = "") -> dict[str, Any]:
    """The table that a TOML file holds, unchecked. Raises ``error`` as ``load_json`` does."""
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
    except ValueError as damaged:  # neither in that language nor, perhaps, in UTF-8
        raise error(f"{path}: expected {what} as {language} in UTF-8 ({damaged})") from damaged
    if not isinstance(raw, dict):
        raise error(f"{path}: expected {what}, a table of names and values")
    return raw


def sentence(refused: ValidationError, kind: type, where: str = "") -> str:
    """The first fault of a refused value as field, got, expected; all unknown fields together."""
    faults = refused.errors(include_url=False)
    fault = faults[0]
    unknown = [f for f in faults if f["type"] in _UNKNOWN]
    if unknown and (len(unknown) == len(faults) or fault["type"] == "missing"):
        parent = unknown[0]["loc"][:-1]
        names = sorted(str(f["loc"][-1]) for f in unknown if f["loc"][:-1] == parent)
        owner = _name(parent, where)
        known = _known(kind, parent)
        title = f"{owner}.keys" if owner else f"{kind.__name__} keys"
        return f"{title}={names}: expected only {known}"
    if fault["type"] == "value_error":
        own = fault["ctx"]["error"]
        if isinstance(own, FieldError):
            return f"{_name((*fault['loc'], own.field), where)}={_shown(own.got)}: expected {own.expected}"
    name = _name(fault["loc"], where) or kind.__name__
    if fault["type"] == "missing":
        return f"{name} is missing: expected {_PLAIN_MISSING}"
    return f"{name}={_shown(fault['input'])}: expected {_expected(fault)}"


_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_PLAIN_MISSING = "a value"
_EXPECTED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "int_type": lambda _: "a whole number",
    "int_from_float": lambda _: "a whole number",
    "float_type": lambda _: "a finite number",
    "finite_number": lambda _: "a finite number",
    "bool_type": lambda _: "true or false",
    "string_type": lambda _: "a text",
    "string_too_short": lambda c: "a text that is not empty" if c["min_length"] == 1 else f"{c['min_length']} letters",
    "string_too_long": lambda c: f"at most {c['max_length']} characters",
    "string_pattern_mismatch": lambda c: f"a text of the form {c['pattern']}",
    "enum": lambda c: f"one of [{c['expected'].replace(' or ', ', ')}]",
    "literal_error": lambda c: f"one of [{c['expected'].replace(' or ', ', ')}]",
    "greater_than": lambda c: f"a value above {_bound(c['gt'])}",
    "greater_than_equal": lambda c: f"a value of at least {_bound(c['ge'])}",
    "less_than": lambda c: f"a value below {_bound(c['lt'])}",
    "less_than_equal": lambda c: f"a value of at most {_bound(c['le'])}",
    "too_short": lambda c: f"at least {c['min_length']} of them",
    "tuple_type": lambda _: "a list",
    "list_type": lambda _: "a list",
    "dict_type": lambda _: "a table",
    "dataclass_type": lambda _: "a table",
    "dataclass_exact_type": lambda _: "a table",
    "path_type": lambda _: "a path",
    "none_required": lambda _: "nothing",
}
"""What pydantic expects, in this project's words. Another kind of fault keeps pydantic's own."""


def _expected(fault: Mapping[str, Any]) -> str:
    phrase = _EXPECTED.get(fault["type"])
    if phrase is None:
        message = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        return message[0].lower() + message[1:]
    return phrase(fault.get("ctx", {}))


def _name(place: tuple[int | str, ...], where: str) -> str:
    """``("events", "files", 0)`` → ``events.files[0]``."""
    name = where
    for part in place:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += f".{part}" if name else part
    return name


def _known(kind: Any, place: tuple[int | str, ...]) -> list[str]:
    """The fields of the validated class at ``place`` within ``kind``."""
    for part in place:
        if get_origin(kind) in (Union, UnionType):  # of a value and nothing
            kind = next(option for option in get_args(kind) if option is not NoneType)
        if dataclasses.is_dataclass(kind):
            kind = get_type_hints(kind)[str(part)]
        else:  # a mapping's values, or a list's elements
            kind = get_args(kind)[1 if isinstance(part, str) else 0]
    kind = next(option for option in (*get_args(kind), kind) if dataclasses.is_dataclass(option))
    return sorted(field.name for field in dataclasses.fields(kind))


def _bound(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _shown(got: object) -> str:
    """Long values cut: a sentence is read by a person."""
    text = repr(got)
    return text if len(text) <= 200 else f"{text[:200]}…"


_adapter_of: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
"""Built once for each class."""
