"""How the owner and its stage processes log: lines for people, or one JSON object a line for programs."""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
from enum import StrEnum

LOG_FORMAT_VARIABLE = "PINREC_LOG_FORMAT"
"""Tells the stage processes, which inherit the environment of the server, the format that the owner was given."""
OF_A_REQUEST = ("request_id", "trace_id")
TEXT = "%(levelname).1s %(name)s: %(message)s"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class JsonLines(logging.Formatter):
    """A record as a JSON object: ``time`` (UTC), ``level``, ``logger``, ``message``, ``stage``, ``release`` and, where
    there is one, ``request_id`` and ``trace_id`` (from ``extra``) and ``traceback``."""

    def __init__(self, *, stage: str, release: str = "") -> None:
        super().__init__()
        self._process = {"stage": stage, "release": release}

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._process,
        }
        for name in OF_A_REQUEST:
            if (value := getattr(record, name, None)) is not None:
                line[name] = value
        if record.exc_info and record.exc_info[0] is not None:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def start_logging(format: LogFormat, *, stage: str, release: str = "") -> None:
    """Log to stderr from now on, from level INFO up. ``stage`` is ``owner`` in the process that owns the server."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonLines(stage=stage, release=release) if format is LogFormat.JSON else logging.Formatter(TEXT)
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # five records on which instructions it tries


def inherited_format() -> LogFormat:
    """The format that the owner of this process chose."""
    return LogFormat(os.environ.get(LOG_FORMAT_VARIABLE) or LogFormat.TEXT)
