"""The format of log lines, as a log collector sees them."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from pinrec_serving.logs import LOG_FORMAT_VARIABLE, JsonLines, LogFormat, inherited_format


def line(formatter: logging.Formatter, message: str, *arguments: object, **more: object) -> str:
    record = logging.getLogger("pinrec").makeRecord(
        "pinrec", logging.ERROR, "file.py", 1, message, arguments, more.pop("exc_info", None), extra=more  # type: ignore[arg-type]
    )  # fmt: skip
    return formatter.format(record)


def test_a_record_is_one_line_of_json_whatever_it_says():
    formatter = JsonLines(stage="generator", release="r1")
    text = line(formatter, "two\nlines of %s", "„text“", request_id="4f0c")
    assert "\n" not in text
    found = json.loads(text)
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "error", "logger": "pinrec", "message": "two\nlines of „text“", "stage": "generator", "release": "r1",
        "request_id": "4f0c",
    }  # fmt: skip


def test_a_traceback_is_part_of_the_line():
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError:
        text = line(JsonLines(stage="owner"), "it failed", exc_info=sys.exc_info())
    assert "\n" not in text
    assert "ZeroDivisionError: by zero" in json.loads(text)["traceback"]
    assert "request_id" not in json.loads(text)


@pytest.mark.parametrize(
    ("value", "expected"), [(None, LogFormat.TEXT), ("", LogFormat.TEXT), ("json", LogFormat.JSON)]
)
def test_a_stage_logs_as_its_owner_does(monkeypatch, value, expected):
    monkeypatch.delenv(LOG_FORMAT_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(LOG_FORMAT_VARIABLE, value)
    assert inherited_format() is expected
