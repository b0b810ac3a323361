"""What commands share at the terminal: progress to stderr, results to stdout."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False)


def progress(*columns: TextColumn, count: bool = False) -> Progress:
    """A progress bar on stderr; ``columns`` come behind it."""
    counted = [MofNCompleteColumn()] if count else []
    return Progress(
        TextColumn("{task.description}"), BarColumn(), *counted, *columns, TimeElapsedColumn(), TimeRemainingColumn(),
        console=stderr, transient=False,
    )  # fmt: skip


@contextmanager
def phase_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for every phase of a job; the block gets the function to report with: phase, done, total."""
    with progress(count=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase)
            bars.update(tasks[phase], completed=done, total=total)

        yield report


def print_json(document: object) -> None:
    """One JSON document on stdout, for machines."""
    print(json.dumps(document, ensure_ascii=False))
