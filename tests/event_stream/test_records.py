"""Every fault of a record is named; an event without an id has one that its content decides."""

from __future__ import annotations

import json

import pytest

from event_stream.records import RecordFormat
from event_stream.source import LONGEST_RECORD, Record
from pinrec_core.errors import DataError, InvalidRequestError
from tests.event_stream.storing import row

FORMAT = RecordFormat()


def record(document: object) -> Record:
    return Record(json.dumps(document).encode(), "events", 0)


def test_an_event_has_the_fields_of_its_record():
    event = FORMAT.event_of(record(row(3, other="ignored", query=None)))
    assert (event.event_id, event.user_id, event.item_id, event.timestamp) == ("e3", 3, 103, 990_003)
    assert (event.action, event.surface, event.query) == ("save", "home", None)
    search = FORMAT.event_of(record(row(3, item_id=None, action="search", query="lamp")))
    assert (search.item_id, search.query) == (None, "lamp")
    assert FORMAT.event_of(Record(row(3), "row", 0)) == event, "a row that is read already"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no value"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"user_id": "\xff"}', "not JSON in UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "expected a JSON object"),
        (b"{}", "user_id is missing"),
        (json.dumps(row(1, timestamp=None)).encode(), "timestamp is missing"),
        (json.dumps(row(1, timestamp="now")).encode(), "timestamp='now': expected an integer"),
        (json.dumps(row(1, timestamp=1.5)).encode(), r"timestamp=1\.5"),
        (json.dumps(row(1, timestamp=True)).encode(), "timestamp=True"),
        (json.dumps(row(1, user_id=1 << 64)).encode(), "user_id=18446744073709551616"),
        (json.dumps(row(1, user_id=[7])).encode(), r"user_id=\[7\]"),
        (json.dumps(row(1, action={"a": 1})).encode(), "action="),
        (json.dumps(row(1, item_id=None)).encode(), "item_id, query"),
        (json.dumps(row(1, query="lamp")).encode(), "item_id, query"),
        (b'{"user_id": 1, "item_id": 2, "timestamp": 3, "action": "\\ud800"}', "UTF-8 can hold"),
    ],
)
def test_a_fault_is_named(value, reason):
    with pytest.raises(DataError, match=reason):
        FORMAT.event_of(Record(value, "events", 0))


def test_a_record_that_is_too_long_is_not_parsed():
    with pytest.raises(DataError, match="has 5,000,000 bytes"):
        FORMAT.event_of(Record(b"{}", "events", 0, cut_from=5_000_000))
    with pytest.raises(DataError, match="expected at most 1,048,576"):
        FORMAT.event_of(Record(b" " * (LONGEST_RECORD + 1), "topic[0]", 0))


def test_fields_may_have_other_names_and_ids_may_be_text():
    format_ = RecordFormat.of({"user_id": "uid", "timestamp": "ts"}, string_ids=True)
    event = format_.event_of(record(row(1, user_id=None, timestamp=None, uid=7, ts=99)))
    assert (event.user_id, event.item_id, event.timestamp) == ("7", "101", 99)
    with pytest.raises(DataError, match="ts is missing"):
        format_.event_of(record(row(1, uid=7)))
    with pytest.raises(InvalidRequestError, match="field='users'"):
        RecordFormat.of({"users": "uid"})


def test_an_event_without_an_id_has_that_of_its_content():
    """So one that is delivered again is the same event, and another one is another."""
    ids = [FORMAT.event_of(record(row(1, event_id=None, **changes))).event_id for changes in (
        {}, {"other": 1}, {"item_id": 7}, {"timestamp": 5}, {"user_id": 4},
    )]  # fmt: skip
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4
