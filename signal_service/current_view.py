"""Follows the batch view that serves. A stand-in for the module of the same name: same interface, less done."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from pinrec_core.errors import PinRecError
from pinrec_core.stages.metrics import BATCH_END, NO_METRICS, Metrics
from signal_service.batch_view import VIEW, BatchView

log = logging.getLogger(__name__)


class CurrentView:
    """The view of ``signals/batch``, opened again when that path leads elsewhere. ``check`` refuses what does not fit.

    Raises what ``BatchView.open`` and ``check`` raise, for the first view alone.
    """

    def __init__(self, signals: Path, check: Callable[[BatchView], None], metrics: Metrics = NO_METRICS) -> None:
        self._signals = Path(signals)
        self._check = check
        self._metrics = metrics
        self._place = self._look()
        self.view = self._open()
        metrics.record(BATCH_END, self.view.info.end_time)

    def refresh(self) -> None:
        """Take the newest view that fits. Call it once per batch."""
        place = self._look()
        if place == self._place:
            return
        self._place = place
        try:
            view = self._open()
        except PinRecError as error:
            log.warning("serving from the earlier batch view: %s", error)
            return
        self.view.close()
        self.view = view
        self._metrics.record(BATCH_END, view.info.end_time)

    def _open(self) -> BatchView:
        view = BatchView.open(self._signals)
        try:
            self._check(view)
        except PinRecError:
            view.close()
            raise
        return view

    def _look(self) -> str:
        return os.path.realpath(self._signals / VIEW)
