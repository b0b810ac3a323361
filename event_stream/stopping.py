"""When a run ends before its source does: nothing new is read, and what is in flight has a while to arrive."""

from __future__ import annotations

import time
from collections.abc import Callable

SLICE_SECONDS = 0.1
"""How often a pause looks whether it is over."""


class Stopping:
    """``requested`` says whether somebody asked for the end; what is in flight then has ``drain_seconds``.

    Threads share it.
    """

    def __init__(self, requested: Callable[[], bool] = lambda: False, *, drain_seconds: float = 30.0) -> None:
        self._requested = requested
        self._drain_seconds = drain_seconds
        self._gives_up_at: float | None = None
        self._aborted = False

    @property
    def requested(self) -> bool:
        """Whether nothing new is to be read."""
        if self._gives_up_at is None and self._requested():
            self._gives_up_at = time.monotonic() + self._drain_seconds
        return self._aborted or self._gives_up_at is not None

    @property
    def given_up(self) -> bool:
        """Whether what is still in flight is waited for no longer."""
        return self.requested and (self._aborted or time.monotonic() >= (self._gives_up_at or 0.0))

    def abort(self) -> None:
        """End without waiting for what is in flight."""
        self._aborted = True

    def pause(self, seconds: float) -> None:
        """Wait for so long, or until the wait is given up."""
        until = time.monotonic() + seconds
        while not self.given_up and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, SLICE_SECONDS))
