"""Shows how far an evaluation has come: a bar per task at a terminal, a line about once a minute in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pinrec_cli.console import progress, stderr

LINE_SECONDS = 60.0


@contextmanager
def users_progress() -> Iterator[Callable[[str, int | None], Callable[[int], None]]]:
    """The block gets a function that begins a task. It takes the task's name and the largest number of users that the
    task can go over, and returns a function that is called with the number of users in each finished batch. A task ends
    when the next one begins."""
    with progress(count=True) as bars:

        def end_task() -> None:
            for task in bars.tasks[-1:]:
                bars.update(task.id, total=task.completed)

        def begin(name: str, total: int | None) -> Callable[[int], None]:
            end_task()
            number = bars.add_task(name, total=total)
            of = "" if total is None else f" of at most {total:,}"
            done, said = 0, time.monotonic()

            def report(users: int) -> None:
                nonlocal done, said
                done += users
                bars.advance(number, users)
                if not stderr.is_terminal and time.monotonic() - said >= LINE_SECONDS:
                    said = time.monotonic()
                    stderr.print(f"{name}: {done:,}{of} users", soft_wrap=True)

            return report

        yield begin
        end_task()
