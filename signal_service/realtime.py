"""Reads a real-time store that may be absent. Without it there are no events; from time to time it is opened again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from pinrec_core.errors import StoreError
from signal_service.store import EventReader, Span, UserEvents

log = logging.getLogger(__name__)


class RealtimeSource:
    """Reads events from a store, which is opened as soon as it exists.

    ``open_reader`` raises ``StoreError`` when it cannot open the store, and is called again after ``retry_seconds``. Of
    several failures in a row only the first is logged. ``monotonic`` is a clock in seconds.
    """

    def __init__(
        self,
        open_reader: Callable[[], EventReader],
        *,
        retry_seconds: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_reader = open_reader
        self._retry_seconds = retry_seconds
        self._monotonic = monotonic
        self._reader: EventReader | None = None
        self._retry_at = float("-inf")
        self._failed = False

    @property
    def available(self) -> bool:
        """Whether events can be read at the moment, as far as the last call found."""
        return self._reader is not None

    def refresh(self) -> None:
        """Make all finished appends visible. Call it once per batch. It does nothing without a store."""
        if self._reader is None:
            self._try_to_open()
        if self._reader is not None:
            try:
                self._reader.refresh()
            except StoreError as error:
                self._lose(error)

    def read(self, spans: Sequence[Span]) -> list[UserEvents]:
        """See ``EventReader.read``. Without a store there are no events, and ``available`` is false."""
        if self._reader is not None:
            try:
                return self._reader.read(spans)
            except StoreError as error:
                self._lose(error)
        return [UserEvents()] * len(spans)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _try_to_open(self) -> None:
        if self._monotonic() < self._retry_at:
            return
        try:
            self._reader = self._open_reader()
        except StoreError as error:
            self._lose(error)
            return
        if self._failed:
            log.warning("the real-time store is back")
        self._failed = False

    def _lose(self, error: StoreError) -> None:
        if not self._failed:
            log.warning("serving from the batch signals alone: %s", error)
        self._failed = True
        self._retry_at = self._monotonic() + self._retry_seconds
        self.close()
