"""SIGINT and SIGTERM while a run trains: they are remembered, so that the run can stop between two steps.

This module knows nothing of training.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class Stop:
    requested: bool = False


@contextmanager
def stop_signals(*, second_ends: bool) -> Iterator[Stop]:
    """Within the block a signal only sets ``Stop.requested``.

    With ``second_ends`` a second signal does what it did before the block, so that the user can end the process at
    once. Under torchrun this must be off: torchrun passes signals on, so a process may get one Ctrl-C twice. Signals
    that the process ignores stay ignored. In a thread other than the main one no handler can be set, and no stop is
    ever requested.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) is not signal.SIG_IGN}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def request(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        if second_ends:
            restore()

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        restore()
