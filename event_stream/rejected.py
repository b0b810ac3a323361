"""The file of records that cannot be used: each with its reason and the place where it lies. It is appended to."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, NamedTuple

from event_stream.source import Record

LONGEST_REASON = 500
"""Characters of a reason. The record follows in full."""


class Why(StrEnum):
    """Who found that a record cannot be used."""

    UNREADABLE = "unreadable"  # it is no event: the record itself is malformed
    REFUSED = "refused"  # the service does not take the event


class Rejected(NamedTuple):
    """A record that cannot be used."""

    record: Record
    why: Why
    reason: str


class RejectedFile:
    """JSON lines with ``part``, ``offset``, ``why``, ``reason`` and the record itself. Made when there is something.

    A killed run may have added records that the next one adds again; part and offset tell.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._pending = False

    def add(self, rejected: Sequence[Rejected]) -> None:
        """Raises ``OSError`` where the file cannot be written."""
        if not rejected:
            return
        if self._file is None:
            self._file = self.path.open("ab")
            if self._file.tell() and not self._ends_with_a_line():
                self._file.write(b"\n")  # a killed run left a line that is not whole
        self._file.write(b"".join(json.dumps(_line(one), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
                                  for one in rejected))  # fmt: skip
        self._pending = True

    def sync(self) -> None:
        """Put what was added on the disk: before its place in the source counts as done."""
        if self._pending and self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._pending = False

    def close(self) -> None:
        if self._file is not None:
            self.sync()
            self._file.close()

    def _ends_with_a_line(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"


def _line(rejected: Rejected) -> dict[str, Any]:
    record = rejected.record
    reason = rejected.reason
    if len(reason) > LONGEST_REASON:
        reason = f"{reason[:LONGEST_REASON]}…"
    line: dict[str, Any] = {
        "part": record.part, "offset": record.offset, "why": str(rejected.why), "reason": reason,
    }  # fmt: skip
    if record.cut_from is not None:
        line["bytes"] = record.cut_from  # of which only the beginning follows
    if isinstance(record.value, bytes):
        try:
            line["record"] = record.value.rstrip(b"\r\n").decode("utf-8")
        except UnicodeDecodeError:
            line["record_base64"] = base64.b64encode(record.value).decode("ascii")
    else:
        line["record"] = None if record.value is None else json.loads(json.dumps(dict(record.value), default=str))
    return line
