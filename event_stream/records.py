"""How a record becomes an event of the client. It knows no source and no service."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pinrec_client import Event
from pinrec_client import InvalidRequestError as ClientInvalidRequestError

from event_stream.source import LONGEST_RECORD, Record
from pinrec_core.errors import DataError, InvalidRequestError, one_of, shown

FIELDS = ("event_id", "user_id", "item_id", "action", "surface", "timestamp", "query")
"""What an event is made of: the fields of the client's ``Event``, and the options of ``pinrec log-event``."""
REQUIRED = ("user_id", "action", "timestamp")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFormat:
    """Which fields a record has. ``names`` maps a field of ``FIELDS`` to the record's own name for it.

    With ``string_ids``, ids are taken as text even where they are numbers. Other fields of a record are ignored.
    """

    names: Mapping[str, str] = field(default_factory=lambda: dict(zip(FIELDS, FIELDS, strict=True)))
    string_ids: bool = False

    @staticmethod
    def of(renamed: Mapping[str, str], *, string_ids: bool = False) -> RecordFormat:
        """The format where some fields have other names. Raises ``InvalidRequestError`` for a field that is none."""
        for name in renamed:
            if name not in FIELDS:
                raise InvalidRequestError(f"field={name!r}: expected {one_of(FIELDS)}")
        return RecordFormat(names={name: renamed.get(name, name) for name in FIELDS}, string_ids=string_ids)

    def event_of(self, record: Record) -> Event:
        """The event of a record. Raises ``DataError``, which says what is wrong with it."""
        document = _document(record)
        values = {}
        for name, theirs in self.names.items():
            value = document.get(theirs)
            if value is not None:  # null is the same as absent
                values[name] = value
        for name in REQUIRED:
            if name not in values:
                raise DataError(f"{self.names[name]} is missing: expected a value")
        if self.string_ids:
            for name in ("user_id", "item_id"):
                if isinstance(values.get(name), int):
                    values[name] = str(values[name])
        if "event_id" not in values:
            values["event_id"] = _identity(values)
        try:
            return Event(**values)
        except ClientInvalidRequestError as refused:
            raise DataError(str(refused)) from refused


def _document(record: Record) -> Mapping[str, Any]:
    value = record.value
    if value is None:
        raise DataError("the record has no value: expected a JSON object")
    if isinstance(value, Mapping):
        return value
    length = record.cut_from or len(value)
    if length > LONGEST_RECORD:
        raise DataError(f"the record has {length:,} bytes: expected at most {LONGEST_RECORD:,}")
    try:
        document = json.loads(value)
    except (ValueError, RecursionError) as damaged:  # no JSON, no UTF-8, or nested too deeply
        raise DataError(f"the record is not JSON in UTF-8 ({damaged})") from damaged
    if not isinstance(document, dict):
        raise DataError(f"record={shown(document)}: expected a JSON object")
    return document


def _identity(values: Mapping[str, Any]) -> str:
    """The id of an event that brings none, made of its fields: one that is delivered again is the same event again."""
    content = json.dumps(values, sort_keys=True, default=str).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).hexdigest()
