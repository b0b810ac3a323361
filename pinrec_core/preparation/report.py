"""Counts what a preparation read, kept, collapsed and set aside. The command line renders the numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pinrec_core.ids import IdKind
from pinrec_core.preparation.quarantine import QuarantineWriter

FILE_NAME = "report.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineEntry:
    """The number of rows of one file that were set aside for one reason, and the first of them."""

    file: str
    reason: str
    rows: int
    first_row: int
    first_field: str
    first_value: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareReport:
    """Counts of one preparation. ``rows_read = valid_events + quarantined_events + collapsed_events``, always."""

    name: str
    user_id_kind: IdKind
    item_id_kind: IdKind
    files: dict[str, int]  # event rows read, by file
    item_files: dict[str, int]  # item rows read, by file
    rows_read: int
    valid_events: int
    quarantined_events: int
    collapsed_events: int
    quarantined_items: int
    num_users: int
    num_items: int
    num_queries: int  # distinct query texts
    query_events: int
    events_by_action: dict[str, int]
    surfaces: int  # named surfaces in the vocabulary
    surfaces_left_out: int  # named surfaces beyond the cap; their events are kept with the unknown surface
    unlisted_surface_events: int
    events_ahead: int  # valid events dated ahead of the clock: in the event files, but beyond the batch's end
    seconds: float
    quarantine: tuple[QuarantineEntry, ...]  # sorted by file, then by descending number of rows

    def __post_init__(self) -> None:
        accounted = self.valid_events + self.quarantined_events + self.collapsed_events
        assert self.rows_read == accounted, f"{self.rows_read} rows read, {accounted} accounted for"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    def save(self, folder: Path) -> None:
        (Path(folder) / FILE_NAME).write_text(self.to_json() + "\n", "utf-8")


def quarantine_entries(quarantine: QuarantineWriter) -> tuple[QuarantineEntry, ...]:
    """The counts of the quarantine, each with one example."""
    entries = []
    for (file, reason), rows in sorted(quarantine.counts.items(), key=lambda entry: (entry[0][0], -entry[1])):
        example = quarantine.examples[file, reason]
        entries.append(
            QuarantineEntry(
                file=file, reason=reason, rows=rows,
                first_row=example.row, first_field=example.field, first_value=example.value,
            )
        )  # fmt: skip
    return tuple(entries)
