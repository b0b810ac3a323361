"""The batch view that serves, while snapshots come and go. This module does not know what a view is read for."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from pinrec_core.dataset.batch_info import BATCH_INFO_NAME
from pinrec_core.errors import PinRecError, StoreError
from pinrec_core.stages.metrics import BATCH_END, NO_METRICS, SNAPSHOTS, Metrics
from signal_service.batch_view import VIEW, BatchView
from signal_service.snapshots import CURRENT, Snapshot, is_name, using_snapshot

log = logging.getLogger(__name__)

TAKEN, REFUSED = "taken", "refused"
LINGER_SECONDS = 1.0
"""How long a thread holds a replaced view. Whoever read it meanwhile has ended, so no request has to close it."""

_Mark = tuple[int, int, int] | None
"""What tells one view from another: device, number and time of its description; None where there is no view."""


class CurrentView:
    """``view`` is that of the current snapshot in ``signals``, or of the plain folder ``signals/batch``.

    ``refresh`` is to be called once per batch of requests. It costs a look at one file. A new snapshot is opened by a
    thread and taken by a later ``refresh``, so ``view`` stays the same in between. ``check`` raises ``PinRecError`` for
    a view that does not fit; that thread calls it. A replaced view can still be read by whoever holds it, and is closed
    when nobody does. While a snapshot is open, ``prune`` leaves it alone.

    A snapshot that cannot be taken is logged once and counted; the view before it goes on. One that does not fit or is
    damaged is not tried again. One that could not be read is, after ``retry_seconds``. The first view is opened at
    once; that raises what ``BatchView.open`` and ``check`` raise. ``monotonic`` is a clock in seconds.
    """

    def __init__(
        self,
        signals: Path,
        check: Callable[[BatchView], None],
        metrics: Metrics = NO_METRICS,
        *,
        retry_seconds: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._signals = Path(signals)
        self._check = check
        self._metrics = metrics
        self._retry_seconds = retry_seconds
        self._monotonic = monotonic
        self._opener: threading.Thread | None = None
        self._result: tuple[BatchView, _Mark] | Exception | None = None  # of the opener
        self._retry_at = float("inf")
        self._logged: list[_Mark] = []  # what was refused and is still there, at most one
        self._closed = threading.Event()
        self.view, self._mark = self._open()
        self._tried = self._mark
        metrics.record(BATCH_END, self.view.info.end_time)

    def refresh(self) -> None:
        """Take a snapshot that has been opened, or have a new one opened. It never waits and never fails."""
        if self._opener is None:
            mark = self._look()
            if mark == self._mark:
                self._tried, self._retry_at, self._logged = mark, float("inf"), []
            elif mark != self._tried or self._monotonic() >= self._retry_at:
                self._tried, self._retry_at = mark, float("inf")
                self._opener = threading.Thread(target=self._open_new, name="snapshot-opener", daemon=True)
                self._opener.start()
        elif not self._opener.is_alive():
            self._opener = None
            result, self._result = self._result, None
            if isinstance(result, Exception):
                self._refuse(result)
            elif result is not None:
                self._take(*result)

    def close(self) -> None:
        """Close the view, whoever reads it."""
        self._closed.set()
        if self._opener is not None:
            self._opener.join()
        if isinstance(self._result, tuple):
            self._result[0].close()
        self.view.close()

    def _take(self, view: BatchView, mark: _Mark) -> None:
        threading.Thread(target=self._linger, args=(self.view,), name="snapshot-closer", daemon=True).start()
        self.view, self._mark, self._tried = view, mark, mark
        self._metrics.record(SNAPSHOTS, 1, TAKEN)
        self._metrics.record(BATCH_END, view.info.end_time)
        log.info("serving from the batch that ends at %d", view.info.end_time)

    def _refuse(self, error: Exception) -> None:
        if isinstance(error, StoreError) or not isinstance(error, PinRecError):
            self._retry_at = self._monotonic() + self._retry_seconds
        if self._logged != [self._tried]:
            trace = None if isinstance(error, PinRecError) else error
            log.warning("a new snapshot is refused, the one before goes on serving: %s", error, exc_info=trace)
            self._metrics.record(SNAPSHOTS, 1, REFUSED)
            self._logged = [self._tried]

    def _linger(self, replaced: BatchView) -> None:
        """Hold a replaced view for a moment; letting go of it closes the database if nobody else reads it."""
        self._closed.wait(LINGER_SECONDS)

    def _open_new(self) -> None:
        try:
            self._result = self._open()
        except Exception as error:  # unforeseen ones too: the view before it goes on, and the log has the trace
            self._result = error

    def _open(self) -> tuple[BatchView, _Mark]:
        pointer = self._signals / CURRENT
        # The snapshot itself and not the links: they may lead to another one a moment later.
        folder = Path(os.path.realpath(pointer)) if pointer.is_dir() else self._signals
        with ExitStack() as held:
            if is_name(folder.name):
                held.enter_context(using_snapshot(folder))
                Snapshot.load(folder).check_files(folder)
            mark = _mark(folder / VIEW / BATCH_INFO_NAME)
            view = BatchView.open(folder)
            try:
                self._check(view)
            except BaseException:
                view.close()
                raise
            weakref.finalize(view, held.pop_all().close).atexit = False  # the kernel lets go of what a process held
        return view, mark

    def _look(self) -> _Mark:
        return _mark(self._signals / CURRENT / VIEW / BATCH_INFO_NAME) or _mark(self._signals / VIEW / BATCH_INFO_NAME)


def _mark(description: Path) -> _Mark:
    try:
        found = os.stat(description)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns
