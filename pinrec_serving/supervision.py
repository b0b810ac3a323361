"""Watches the stage processes of a Triton server, because Triton does not: it never restarts a stage whose process has
ended, goes on sending requests to it, and calls the ensemble ready.

A thread looks at every process several times a second. It reports those that have ended. A process that cannot go on
without having ended is killed, and then reported: one that has worked on a single batch for longer than any batch
takes, or that somebody has stopped. This module does not know what is done about it, nor which stages serve.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pinrec_serving.heartbeat import StageProcess, stage_processes
from pinrec_serving.processes import ENDED, STOPPED, process_state

INTERVAL = 0.2  # seconds between two looks
STALL_TIMEOUT = 30.0
"""Seconds for which a process may work on one batch. The slowest batch that is known, 32 requests of `base` on two
cores, takes four."""
STOPPED_TIMEOUT = 5.0  # seconds for which a process may be stopped, as by SIGSTOP

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StageEnded:
    """The process of the stage ``model`` has ended. ``reason`` completes the sentence "its process …"."""

    model: str
    pid: int
    reason: str


class StageWatch:
    """Watches the processes that report in ``folder``, as a context manager, and calls ``ended`` from its own thread.

    A stage that is unloaded ends its process too, so ``ended`` has to know which stages serve. Where it raises, that is
    logged and it is called again.
    """

    def __init__(
        self, folder: Path, ended: Callable[[StageEnded], None], *, stall_timeout: float = STALL_TIMEOUT
    ) -> None:
        self._folder = folder
        self._ended = ended
        self._stall_timeout = stall_timeout
        self._stopped_since: dict[int, float] = {}
        self._killed: dict[int, str] = {}
        self._close = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stage-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._close.set()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether it watches."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._close.wait(INTERVAL):
            try:  # the watch must outlive whatever is wrong with one look
                processes = stage_processes(self._folder)
            except Exception:
                log.exception("a look for the stage processes failed; it is repeated")
                continue
            for process in processes:
                try:
                    self._look_at(process)
                except Exception:
                    log.exception("a look at process %d of %s failed; it is repeated", process.pid, process.model)

    def _look_at(self, process: StageProcess) -> None:
        state = process_state(process.pid)
        if state in ENDED:
            self._ended(StageEnded(process.model, process.pid, self._killed.get(process.pid, "has ended")))
            # Only now, so that a report that failed is made again.
            process.file.unlink(missing_ok=True)
            self._killed.pop(process.pid, None)
            self._stopped_since.pop(process.pid, None)
        elif process.pid not in self._killed and (reason := self._why_hopeless(process, state)) is not None:
            self._killed[process.pid] = f"{reason} and was killed"
            log.error("%s: process %d %s; it is killed", process.model, process.pid, reason)
            os.kill(process.pid, signal.SIGKILL)

    def _why_hopeless(self, process: StageProcess, state: str) -> str | None:
        if state == STOPPED:
            since = self._stopped_since.setdefault(process.pid, time.monotonic())
            return "was stopped" if time.monotonic() - since > STOPPED_TIMEOUT else None
        self._stopped_since.pop(process.pid, None)
        busy = process.busy_seconds()
        return f"worked on one batch for {busy:.0f} s" if busy > self._stall_timeout else None


class RestartPolicy:
    """When a stage is loaded again: at once the first time, then after growing pauses, and not for ever.

    A stage that ends whenever it is loaded would otherwise keep the machine busy and hide that nothing serves. After
    ``most`` restarts within ``window`` seconds the service gives up, and whatever runs it decides.
    """

    def __init__(
        self, *, most: int = 5, window: float = 120.0, longest_pause: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._most = most
        self._window = window
        self._longest_pause = longest_pause
        self._clock = clock
        self._restarts: deque[float] = deque()

    def next_pause(self) -> float | None:
        """Seconds to wait before the restart that is due now, which counts from here on; None: give up."""
        now = self._clock()
        while self._restarts and self._restarts[0] < now - self._window:
            self._restarts.popleft()
        if len(self._restarts) >= self._most:
            return None
        earlier = len(self._restarts)
        self._restarts.append(now)
        return 0.0 if earlier == 0 else min(2.0 ** (earlier - 1), self._longest_pause)

    def __str__(self) -> str:
        return f"{self._most} restarts within {self._window:.0f} s"
