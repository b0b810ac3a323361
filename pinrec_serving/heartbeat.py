"""The sign of life of a stage process: a file that says since when it has been working on one batch.

The process of a stage writes it, the owner of the server reads it (``supervision``). The file lies in a folder that the
owner names in the environment, is called after process and model, and holds eight bytes, which both map into memory: a
sign of life costs a write to memory. Where no folder is named, as in tests of a stage, nothing is written.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

FOLDER_VARIABLE = "PINREC_HEARTBEATS"
IDLE = 0.0
LEAST_PRIORITY = 19
_MOMENT = struct.Struct("=d")  # aligned and of one machine word, so that a reader never sees half of it


class Heartbeat:
    """The writer's side. ``model`` is the name under which Triton has loaded the stage."""

    def __init__(self, model: str) -> None:
        folder = os.environ.get(FOLDER_VARIABLE)
        if not folder:
            self._memory = mmap.mmap(-1, _MOMENT.size)
            return
        path = Path(folder) / f"{os.getpid()}.{model}"
        unfinished = path.with_name(f".{path.name}")
        unfinished.write_bytes(_MOMENT.pack(IDLE))
        with unfinished.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _MOMENT.size)
        unfinished.rename(path)  # the owner sees it once it can be read

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Around the work on one batch."""
        _MOMENT.pack_into(self._memory, 0, time.monotonic())
        try:
            yield
        finally:
            _MOMENT.pack_into(self._memory, 0, IDLE)


@dataclass(frozen=True, slots=True)
class StageProcess:
    """The reader's side: a process that said it runs the stage ``model``."""

    pid: int
    model: str
    file: Path

    def stand_back(self) -> None:
        """Let everything else on the machine go first, from now on: ending a process takes time, too."""
        with suppress(OSError):  # it has ended meanwhile
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                with suppress(OSError):  # this thread has
                    os.setpriority(os.PRIO_PROCESS, int(task.name), LEAST_PRIORITY)

    def busy_seconds(self) -> float:
        """For how long it has been working on one batch; 0 while it waits for one."""
        since = _MOMENT.unpack(self.file.read_bytes())[0]
        return 0.0 if since == IDLE else time.monotonic() - since


def stage_processes(folder: Path) -> list[StageProcess]:
    """The processes that have written to ``folder``, whether they still run or not."""
    named = [(file, *file.name.partition(".")[::2]) for file in folder.iterdir()]
    # A name without a number is that of an unfinished file.
    return [StageProcess(int(pid), model, file) for file, pid, model in named if pid.isdecimal()]
