"""Processes and threads of this machine, as Linux knows them: whether one runs, and who goes first."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

ENDED = "ZX"  # a zombie, which its parent has not asked for yet; dead
STOPPED = "T"
LOADING_NICENESS = 19
"""How far what loads stands back behind what serves: it gets a sixtieth of the time of a busy core, and all of the time
of an idle one."""

T = TypeVar("T")


def process_state(pid: int) -> str:
    """The state of a process as in /proc/PID/stat: R, S, D, T, Z …; X when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace").rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def has_ended(pid: int) -> bool:
    """Whether there is no such process, or it has ended."""
    return process_state(pid) in ENDED


def stand_back() -> None:
    """Let what serves go before this thread from now on. It cannot be taken back, so call it in a thread that ends."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOADING_NICENESS)


def standing_back(work: Callable[[], T]) -> Future[T]:
    """Do ``work`` in a thread of its own, which stands back. The process may end without waiting for it."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            stand_back()
            result.set_result(work())
        except BaseException as error:  # it is the caller's, who asks for the result
            result.set_exception(error)

    threading.Thread(target=run, name="standing-back", daemon=True).start()
    return result
