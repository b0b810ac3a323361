"""What a run of the batch job did with the events: one number for each reason why an event is not in a sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from pinrec_core.errors import DataError
from pinrec_core.validation import load_json, save_json, validated

FILE_NAME = "report.json"

Count = Annotated[int, Field(ge=0)]


@validated(DataError)
class BatchReport:
    """Counts of one run. Every event has exactly one fate (``adds_up``)::

        events_read = positive + queries + ignored + unknown_action
        previous_interactions + positive + queries = outside_window + forgotten + repeats + cut + interactions

    A full run has no previous interactions. An incremental run counts the events that it read, and what left the
    previous sequences. There, a repeat that is older than the newest new events of its user counts as cut.
    """

    incremental: bool
    rebuilt_because: str  # why a run that was asked to be incremental was a full one; empty for any other run
    start_time: int | None
    end_time: int
    files_read: Count
    events_read: Count
    positive: Count
    queries: Count
    ignored: Count  # events of a known action that is neither an outcome nor a query
    unknown_action: Count  # events of an action that the manifest does not know
    unknown_surface: Count  # events of a named surface outside the vocabulary; they are kept with the unknown one
    outside_window: Count  # before the start or from the end of the batch on
    late: Count  # read by this run for the first time, though they are from before the end of the previous batch
    forgotten: Count  # up to the time at which their user asked to be forgotten
    repeats: Count  # of an earlier event of the same user, item, outcome and time
    cut: Count  # older than the newest of their user
    without_content: Count  # new interactions whose item has a content vector of zeros
    previous_interactions: Count
    users: Count
    interactions: Count
    seconds: Annotated[float, Field(ge=0)]

    @property
    def adds_up(self) -> bool:
        """Whether both sums hold. Where a lost executor makes Spark repeat a step, its events are counted twice."""
        kinds = self.positive + self.queries + self.ignored + self.unknown_action
        used = self.previous_interactions + self.positive + self.queries
        fates = self.outside_window + self.forgotten + self.repeats + self.cut + self.interactions
        return self.events_read == kinds and used == fates

    @staticmethod
    def load(folder: Path) -> BatchReport:
        """Read ``folder/report.json``. Raises ``DataError`` when it is absent or damaged."""
        return load_json(BatchReport, Path(folder) / FILE_NAME, error=DataError, what="the report of a batch")

    def save(self, folder: Path) -> None:
        save_json(self, Path(folder) / FILE_NAME)
