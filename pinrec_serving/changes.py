"""Makes the changes of a deployment one after the other, in a thread of its own, so that the main thread stays free.

What brings something back (a restart) goes before a swap, and between the steps of one. Swaps that are asked for while
one is under way are one further swap. This module does not know what either of them does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Self

from pinrec_core.errors import StoppedError

END_TIMEOUT = 5.0
"""Seconds that a change may take to end once it is bound to fail, because the server that it works on has stopped."""

Change = Callable[[], None]
"""It must not raise."""


class Changes:
    """The thread, as a context manager. Enter it before the server that the changes work on, so that it is left behind
    the server: the step that is under way, such as loading a model, ends with that."""

    def __init__(self) -> None:
        self._restarts: deque[Change] = deque()
        self._swap: Change | None = None
        self._stopped = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="changes", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether what is asked for will be done."""
        return self._thread.is_alive()

    @property
    def stopped(self) -> bool:
        """Whether nothing else is begun; what is under way may fail."""
        return self._stopped

    def restart(self, change: Change) -> None:
        """Do this as soon as possible."""
        with self._news:
            self._restarts.append(change)
            self._news.notify()

    def swap(self, change: Change) -> None:
        """Do this once there is nothing else to do."""
        with self._news:
            self._swap = change
            self._news.notify()

    def between_steps(self) -> None:
        """For a swap to call between its steps: the restarts that are due go first.

        Raises ``StoppedError`` where the swap shall end.
        """
        while not self._stopped and self._restarts:
            self._restarts.popleft()()
        if self._stopped:
            raise StoppedError("the service stops")

    def stop(self) -> None:
        """Begin nothing else, and let a swap end at its next step."""
        with self._news:
            self._stopped = True
            self._news.notify()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join(END_TIMEOUT)

    def _run(self) -> None:
        while (change := self._next()) is not None:
            change()

    def _next(self) -> Change | None:
        """The next change, once there is one; None when there is to be none any more."""
        with self._news:
            self._news.wait_for(lambda: self._stopped or self._restarts or self._swap is not None)
            if self._stopped:
                return None
            if self._restarts:
                return self._restarts.popleft()
            change, self._swap = self._swap, None
            return change
