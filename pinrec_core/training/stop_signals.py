"""SIGINT and SIGTERM while a run trains: remembered, so that it can stop between two steps. Knows no training."""

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
    """Within the block a signal requests a stop and does nothing else.

    ``second_ends``: with the next one everything is as before the block, so that who is in a hurry need not wait for
    the step's end. Under torchrun, which passes on what the terminal may have sent already, every signal is the first.
    A signal that the process ignores stays ignored; threads other than the main one get none.
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
