"""Whether a process of this machine runs, as Linux tells it."""

from __future__ import annotations

from pathlib import Path

ENDED = "ZX"  # a zombie, which its parent has not asked for yet; dead
STOPPED = "T"


def process_state(pid: int) -> str:
    """The state of a process as in /proc/PID/stat: R, S, D, T, Z …; X when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace").rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def has_ended(pid: int) -> bool:
    """Whether there is no such process, or it has ended."""
    return process_state(pid) in ENDED
