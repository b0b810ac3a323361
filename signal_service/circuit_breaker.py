"""Stops asking a server that does not answer. It knows no server.

After several failures in a row every call is refused at once, for a pause; then one call is let through. If it
succeeds, all is as before, else the next pause begins. So a dead server costs a request nothing, instead of a time-out.

The libraries that offer this hold a lock while a call runs, so that one slow call would hold up all threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pinrec_core.errors import StoreError


class CircuitBreaker:
    """May be used by several threads. ``monotonic`` is a clock in seconds."""

    def __init__(
        self,
        *,
        failures: int,
        pause_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._allowed = failures
        self._pause_seconds = pause_seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until = 0.0
        self._trying = False  # whether one call is under way to find out if the server is back

    @property
    def is_open(self) -> bool:
        """Whether calls are refused, but for the one that tries again after the pause."""
        with self._lock:
            return self._failures >= self._allowed

    @contextmanager
    def call(self, failures: tuple[type[Exception], ...]) -> Iterator[None]:
        """Around one call. Raises ``StoreError`` at once while calls are refused.

        An exception of ``failures`` counts as a failure. Any other means that the server answered. A call that is
        broken off, as by Ctrl-C, tells nothing.
        """
        tried = self._admit()
        try:
            yield
        except failures:
            self._failed(tried)
            raise
        except Exception:
            self._succeeded()
            raise
        except BaseException:
            self._broken_off(tried)
            raise
        self._succeeded()

    def _admit(self) -> bool:
        """Whether this call is the one that tries again."""
        with self._lock:
            if self._failures < self._allowed:
                return False
            left = self._open_until - self._monotonic()
            if left > 0 or self._trying:
                when = f"it is tried again in {left:.1f} s" if left > 0 else "it is being tried again"
                raise StoreError(f"the store is not asked: {self._failures} calls in a row failed; {when}")
            self._trying = True
            return True

    def _failed(self, tried: bool) -> None:
        with self._lock:
            self._failures += 1
            if tried or self._failures == self._allowed:
                self._open_until = self._monotonic() + self._pause_seconds
            self._trying = self._trying and not tried

    def _succeeded(self) -> None:
        with self._lock:
            self._failures = 0
            self._trying = False

    def _broken_off(self, tried: bool) -> None:
        with self._lock:
            self._trying = self._trying and not tried
