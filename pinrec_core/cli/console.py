"""What commands share at the terminal: progress to stderr, results to stdout."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False)


def progress(*columns: TextColumn, count: bool = False) -> Progress:
    """A progress bar on stderr; ``columns`` come behind it."""
    counted = [MofNCompleteColumn()] if count else []
    return Progress(
        TextColumn("{task.description}"), BarColumn(), *counted, *columns, TimeElapsedColumn(), TimeRemainingColumn(),
        console=stderr, transient=False,
    )  # fmt: skip


def print_json(document: Any) -> None:
    """One JSON document on stdout, for machines."""
    print(json.dumps(document, ensure_ascii=False))
