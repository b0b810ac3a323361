"""The dataset TOML: which files, which columns, what each action means. Unknown keys are refused.

Describes a log; never opens one. Presets are the same TOML files, kept in ``presets/``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pinrec_core.errors import ConfigError, require
from pinrec_core.ids import IdKind
from pinrec_core.text import DEFAULT_ENCODER

Spec = TypeVar("Spec")

TIME_UNITS: dict[str, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9, "iso8601": 1}
"""Ticks per second; ``iso8601`` is text such as ``2024-05-01T12:00:00Z``."""

MAX_SURFACES = 32767  # surfaces are numbered with int16


@dataclass(frozen=True, slots=True, kw_only=True)
class EventColumns:
    """The event files and the names of their columns; None where the log has no such column.

    ``files`` are names or globs relative to the data folder. ``order_only_time``: timestamps are positions, not times,
    and are not checked against the calendar. ``event_id``: rows of one user with the same id are one event.
    """

    files: tuple[str, ...]
    user: str
    item: str
    action: str
    timestamp: str
    surface: str | None = None
    item_type: str | None = None
    query: str | None = None
    event_id: str | None = None
    time_unit: str = "s"
    order_only_time: bool = False
    delimiter: str | None = None

    def __post_init__(self) -> None:
        _check_files("events", self.files, self.delimiter)
        require(self.time_unit in TIME_UNITS, "events.time_unit", self.time_unit, f"one of {list(TIME_UNITS)}",
                error=ConfigError)  # fmt: skip

    @property
    def columns(self) -> tuple[str, ...]:
        """Every mapped column, once each."""
        named = (self.user, self.item, self.action, self.timestamp, self.surface, self.item_type, self.query,
                 self.event_id)  # fmt: skip
        return tuple(dict.fromkeys(name for name in named if name is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemColumns:
    """The item files and the names of their columns.

    ``title`` is shown and encoded, ``text`` columns are encoded only, ``categories`` both. ``category_separator``
    splits one category cell into several. ``is_query`` marks rows that are queries, whose title is their text.
    """

    files: tuple[str, ...]
    id: str
    title: str | None = None
    text: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    category_separator: str | None = None
    vector: str | None = None
    is_query: str | None = None
    delimiter: str | None = None

    def __post_init__(self) -> None:
        _check_files("items", self.files, self.delimiter)
        require(self.is_query is None or self.title is not None, "items.title", self.title,
                "a column, as is_query takes a query's text from it", error=ConfigError)  # fmt: skip
        require(self.category_separator != "", "items.category_separator", "", "one or more characters",
                error=ConfigError)  # fmt: skip

    @property
    def columns(self) -> tuple[str, ...]:
        """Every mapped column, once each."""
        named = (self.id, self.title, *self.text, *self.categories, self.vector, self.is_query)
        return tuple(dict.fromkeys(name for name in named if name is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """One log. ``outcomes`` are the positive actions, in the order the model numbers them.

    ``collapse_repeats`` keeps the first of consecutive events of one user with the same item and action. Id kinds are
    inferred from the files where None. Without ``items`` the catalogue is made of the ids in the log.
    """

    name: str
    outcomes: tuple[str, ...]
    events: EventColumns
    items: ItemColumns | None = None
    aliases: tuple[str, ...] = ()
    query_actions: tuple[str, ...] = ()
    ignored_actions: tuple[str, ...] = ()
    collapse_repeats: bool = False
    max_surfaces: int = 1024
    text_encoder: str = DEFAULT_ENCODER
    user_id_kind: IdKind | None = None
    item_id_kind: IdKind | None = None

    def __post_init__(self) -> None:
        require(bool(self.outcomes), "outcomes", self.outcomes, "at least one positive action", error=ConfigError)
        repeated = sorted({a for a in self.actions if self.actions.count(a) > 1})
        require(not repeated, "actions", repeated,
                "each action once among outcomes, query_actions and ignored_actions", error=ConfigError)  # fmt: skip
        require(1 <= self.max_surfaces <= MAX_SURFACES, "max_surfaces", self.max_surfaces,
                f"a number between 1 and {MAX_SURFACES}", error=ConfigError)  # fmt: skip

    @property
    def actions(self) -> tuple[str, ...]:
        """Every known action: outcomes, then queries, then ignored ones. An action's code is its position here."""
        return (*self.outcomes, *self.query_actions, *self.ignored_actions)


def load_spec(path: Path) -> DatasetSpec:
    """Read a dataset TOML. Raises ``ConfigError`` naming the file and the key at fault."""
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config={str(path)!r}: expected a readable UTF-8 TOML file ({error})") from error
    return parse_spec(text, source=str(path))


def parse_spec(text: str, *, source: str) -> DatasetSpec:
    """A spec from TOML text; ``source`` names it in errors."""
    try:
        raw = tomllib.loads(text)
        events = _build(EventColumns, _table(raw, "events"), "events.")
        items = _build(ItemColumns, _table(raw, "items"), "items.") if "items" in raw else None
        top = {key: value for key, value in raw.items() if key not in ("events", "items")}
        return _build(DatasetSpec, top, "", events=events, items=items)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: expected valid TOML ({error})") from error
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def preset_names() -> tuple[str, ...]:
    """Names of the shipped presets, sorted."""
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in _preset_files()))


def load_preset(name: str) -> DatasetSpec:
    """A shipped preset by name or alias. Raises ``ConfigError`` with the names there are."""
    for entry in _preset_files():
        spec = parse_spec(entry.read_text("utf-8"), source=f"preset {entry.name}")
        if name in (spec.name, *spec.aliases):
            return spec
    raise ConfigError(f"preset={name!r}: expected one of {list(preset_names())}")


def _preset_files() -> list[Traversable]:
    folder = resources.files(__package__) / "presets"
    return [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]


def _table(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    require(isinstance(raw.get(key), dict), key, raw.get(key), f"a table [{key}]", error=ConfigError)
    return raw[key]


def _build(cls: type[Spec], raw: Mapping[str, Any], prefix: str, **parts: Any) -> Spec:
    """``cls`` from TOML values: unknown and missing keys refused, types checked, arrays made tuples."""
    known = {f.name: f for f in fields(cls) if f.name not in parts}  # type: ignore[arg-type]
    unknown = sorted(set(raw) - set(known))
    require(not unknown, f"{prefix}keys", unknown, f"only {sorted(known)}", error=ConfigError)
    missing = [name for name, f in known.items() if f.default is MISSING and name not in raw]
    require(not missing, f"{prefix}keys", sorted(raw), f"{missing} as well", error=ConfigError)
    hints = get_type_hints(cls)
    values = {name: _typed(f"{prefix}{name}", value, str(hints[name])) for name, value in raw.items()}
    return cls(**values, **parts)


def _typed(field: str, value: Any, hint: str) -> Any:
    if "tuple" in hint:
        correct = isinstance(value, list) and all(isinstance(v, str) and v for v in value)
        require(correct, field, value, "an array of non-empty strings", error=ConfigError)
        return tuple(value)
    if "bool" in hint:
        require(isinstance(value, bool), field, value, "true or false", error=ConfigError)
    elif "int" in hint and "IdKind" not in hint:
        require(isinstance(value, int) and not isinstance(value, bool), field, value, "a whole number",
                error=ConfigError)  # fmt: skip
    elif "IdKind" in hint:
        require(value in list(IdKind), field, value, f"one of {[str(k) for k in IdKind]}", error=ConfigError)
        return IdKind(value)
    else:
        require(isinstance(value, str) and value != "", field, value, "a non-empty string", error=ConfigError)
    return value


def _check_files(table: str, files: tuple[str, ...], delimiter: str | None) -> None:
    require(bool(files), f"{table}.files", files, "at least one file name or glob", error=ConfigError)
    require(delimiter is None or len(delimiter) == 1, f"{table}.delimiter", delimiter, "one character",
            error=ConfigError)  # fmt: skip
