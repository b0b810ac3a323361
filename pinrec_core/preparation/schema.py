"""The dataset TOML: it says which files and columns a log has and what each action means. Unknown keys are refused.

This module describes a log and never opens one. The presets are TOML files of the same kind, in ``presets/``.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pinrec_core.errors import ConfigError
from pinrec_core.ids import IdKind
from pinrec_core.representations.text_encoder import DEFAULT_ENCODER
from pinrec_core.validation import ListOf, OneOf, Text, check, from_plain, read_toml, validated

TIME_UNITS: dict[str, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9, "iso8601": 1}
"""Ticks per second; ``iso8601`` is text such as ``2024-05-01T12:00:00Z``."""

MAX_SURFACES = 32767  # surfaces are numbered with int16


@validated()
class EventColumns:
    """The event files and the names of their columns; None where the log has no such column.

    ``files`` are names or globs relative to the folder of the log. With ``order_only_time`` the timestamps are
    positions in a sequence, which are not compared with the calendar. Rows of one user with the same ``event_id`` are
    one event.
    """

    files: Annotated[ListOf[Text], Field(min_length=1)]
    user: Text
    item: Text
    action: Text
    timestamp: Text
    surface: Text | None = None
    item_type: Text | None = None
    query: Text | None = None
    event_id: Text | None = None
    time_unit: str = "s"
    order_only_time: bool = False
    delimiter: str | None = None

    def __post_init__(self) -> None:
        check(self.time_unit in TIME_UNITS, "time_unit", self.time_unit, f"one of {list(TIME_UNITS)}")
        _check_delimiter(self.delimiter)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every mapped column, once each."""
        named = (self.user, self.item, self.action, self.timestamp, self.surface, self.item_type, self.query,
                 self.event_id)  # fmt: skip
        return tuple(dict.fromkeys(name for name in named if name is not None))


@validated()
class ItemColumns:
    """The item files and the names of their columns.

    ``title`` and ``categories`` are shown and encoded; ``text`` columns are only encoded. ``category_separator`` splits
    the cell of a category column into several categories. ``is_query`` marks rows that are queries. The title of such a
    row is the text of the query.
    """

    files: Annotated[ListOf[Text], Field(min_length=1)]
    id: Text
    title: Text | None = None
    text: ListOf[Text] = ()
    categories: ListOf[Text] = ()
    category_separator: Text | None = None
    vector: Text | None = None
    is_query: Text | None = None
    delimiter: str | None = None

    def __post_init__(self) -> None:
        _check_delimiter(self.delimiter)
        check(self.is_query is None or self.title is not None, "title", self.title,
              "a column, as is_query takes a query's text from it")  # fmt: skip

    @property
    def columns(self) -> tuple[str, ...]:
        """Every mapped column, once each."""
        named = (self.id, self.title, *self.text, *self.categories, self.vector, self.is_query)
        return tuple(dict.fromkeys(name for name in named if name is not None))


@validated()
class DatasetSpec:
    """One log. ``outcomes`` are the positive actions, in the order in which the model numbers them.

    ``collapse_repeats`` keeps only the first of consecutive events of one user with the same item and action. An id
    kind of None is inferred from the files. Without ``items`` the catalogue consists of the item ids in the log.
    """

    name: Text
    outcomes: Annotated[ListOf[Text], Field(min_length=1)]
    events: EventColumns
    items: ItemColumns | None = None
    aliases: ListOf[Text] = ()
    query_actions: ListOf[Text] = ()
    ignored_actions: ListOf[Text] = ()
    collapse_repeats: bool = False
    max_surfaces: Annotated[int, Field(ge=1, le=MAX_SURFACES)] = 1024
    text_encoder: Text = DEFAULT_ENCODER
    user_id_kind: OneOf[IdKind] | None = None
    item_id_kind: OneOf[IdKind] | None = None

    def __post_init__(self) -> None:
        repeated = sorted({a for a in self.actions if self.actions.count(a) > 1})
        check(not repeated, "actions", repeated, "each action once among outcomes, query_actions and ignored_actions")

    @property
    def actions(self) -> tuple[str, ...]:
        """Every known action: outcomes, then query actions, then ignored ones. An action's code is its position."""
        return (*self.outcomes, *self.query_actions, *self.ignored_actions)


def _check_delimiter(delimiter: str | None) -> None:
    fits = delimiter is None or (len(delimiter) == 1 and delimiter.isascii() and delimiter not in '"\r\n\0')
    check(fits, "delimiter", delimiter, "one ASCII character that is neither a quote nor a line break")


def load_spec(path: Path) -> DatasetSpec:
    """Read a dataset TOML. Raises ``ConfigError``, which names the file and the key at fault."""
    path = Path(path)
    raw = read_toml(path, error=ConfigError, what="the mapping of a log")
    return from_plain(DatasetSpec, raw, source=path)


def preset_names() -> tuple[str, ...]:
    """Names of the shipped presets, sorted."""
    return tuple(sorted(path.stem for path in _preset_files()))


def load_preset(name: str) -> DatasetSpec:
    """A shipped preset by name or alias. Raises ``ConfigError``, which lists the existing names."""
    for path in _preset_files():
        spec = load_spec(path)
        if name in (spec.name, *spec.aliases):
            return spec
    raise ConfigError(f"preset={name!r}: expected one of {list(preset_names())}")


def _preset_files() -> list[Path]:
    with resources.as_file(resources.files(__package__) / "presets") as folder:
        return sorted(folder.glob("*.toml"))
