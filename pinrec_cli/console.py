"""What the commands share at the terminal: progress goes to stderr, results go to stdout."""

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

stderr = Console(stderr=True, highlight=False, markup=False)  # errors quote what they are about
stdout = Console(highlight=False)


def progress(*columns: TextColumn, count: bool = False) -> Progress:
    """A progress bar on stderr, with ``columns`` to its right."""
    counted = [MofNCompleteColumn()] if count else []
    return Progress(
        TextColumn("{task.description}"), BarColumn(), *counted, *columns, TimeElapsedColumn(), TimeRemainingColumn(),
        console=stderr, transient=False,
    )  # fmt: skip


@contextmanager
def phase_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Draws a bar per phase of a job. The block gets a function that reports phase, amount done and the whole."""
    with progress(count=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase)
            bars.update(tasks[phase], completed=done, total=total)

        yield report


@contextmanager
def steps_progress(job: str) -> Iterator[Callable[[str], None]]:
    """Shows which step of a job is being done: in place at a terminal, a line per step in a log file. The block gets a
    function that is called with each step's name."""
    with stderr.status(job) as status:

        def report(step: str) -> None:
            status.update(f"{job}: {step}")
            if not stderr.is_terminal:
                stderr.print(f"{job}: {step}", soft_wrap=True)

        yield report


def print_json(document: object) -> None:
    """Prints one JSON document to stdout, for programs to read."""
    print(json.dumps(document, ensure_ascii=False))
