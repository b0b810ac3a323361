"""A small log that tests can change: its rows as dictionaries, its mapping, and access to the prepared folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pinrec_core.preparation.report import PrepareReport
from pinrec_core.preparation.schema import DatasetSpec, EventColumns, ItemColumns

NOW = 1_700_000_000
T0 = NOW - 1_000_000

EVENT_COLUMNS = EventColumns(
    files=("events.*",), user="user", item="item", action="action", timestamp="time", surface="surface", query="query"
)
ITEM_COLUMNS = ItemColumns(files=("items.*",), id="id", title="title", categories=("category",))
SPEC = DatasetSpec(
    name="small", outcomes=("save", "click"), query_actions=("search",), ignored_actions=("view",),
    events=EVENT_COLUMNS, items=ITEM_COLUMNS,
)  # fmt: skip

ITEMS = [{"id": n, "title": f"Item number {n}", "category": "odd" if n % 2 else "even"} for n in range(1, 6)]


def event(user: Any = 1, item: Any = 1, action: Any = "click", time: Any = T0, surface: Any = "home",
          query: Any = None) -> dict[str, Any]:  # fmt: skip
    return {"user": user, "item": item, "action": action, "time": time, "surface": surface, "query": query}


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    pa_csv.write_csv(pa.Table.from_pylist([dict(row) for row in rows]), path)


class Prepared:
    """The files that a preparation wrote, as lists of rows."""

    def __init__(self, folder: Path, report: PrepareReport) -> None:
        self.folder, self.report = folder, report

    @property
    def events(self) -> list[dict[str, Any]]:
        return pq.read_table(self.folder / "events").sort_by("ordinal").to_pylist()

    @property
    def quarantine(self) -> list[dict[str, Any]]:
        return (
            pq.read_table(self.folder / "quarantine.parquet")
            .sort_by([("file", "ascending"), ("row", "ascending")])
            .to_pylist()
        )

    @property
    def reasons(self) -> dict[int, str]:
        """The reason for each row of the event files that was set aside."""
        return {r["row"]: r["reason"] for r in self.quarantine if not r["file"].startswith("items")}
