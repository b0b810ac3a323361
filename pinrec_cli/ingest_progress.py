"""The progress of ``pinrec ingest``: a line in place at a terminal, and one now and then in a log file."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import TextColumn

from pinrec_cli.console import progress, stderr

if TYPE_CHECKING:
    from event_stream.ingestion import Counters
    from event_stream.source import EventSource

RATE_SECONDS = 5.0  # over which the rate is taken
LINE_SECONDS = 30.0  # between two lines of a log file
DRAWN_SECONDS = 0.2


@contextmanager
def ingest_progress(source: EventSource) -> Iterator[Callable[[Counters], None]]:
    """The block gets a function that is called with the counters. A source with a ``size`` has a bar."""
    size = getattr(source, "size", None)
    past: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
    line_at = time.monotonic() + LINE_SECONDS
    with progress(TextColumn("{task.fields[text]}")) as bars:
        task = bars.add_task("events", total=size, text="")

        def report(counters: Counters) -> None:
            nonlocal line_at
            now = time.monotonic()
            if now - past[-1][0] < DRAWN_SECONDS and counters.in_flight:
                return
            past.append((now, counters.acknowledged))
            while len(past) > 2 and now - past[0][0] > RATE_SECONDS:
                past.popleft()
            rate = (past[-1][1] - past[0][1]) / max(now - past[0][0], 1e-9)
            text = (
                f"{counters.acknowledged:,} acknowledged, {counters.rejected:,} rejected, "
                f"{counters.in_flight:,} in flight, {rate:,.0f}/s"
            )
            if size is not None:  # which grows, where a file is followed
                bars.update(task, completed=source.place, total=source.size, text=text)  # type: ignore[attr-defined]
            else:
                bars.update(task, completed=counters.acknowledged, text=text)
            if not stderr.is_terminal and now >= line_at:
                line_at = now + LINE_SECONDS
                stderr.print(text, soft_wrap=True)

        yield report
