"""When a caller stops waiting: work for a request that nobody waits for any more is not begun.

A moment is told by the clock of one machine since it was started, which no correction of the time moves. It travels
with the identity of that clock, and means nothing to a machine that has another one.
"""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # another one after each start of a Linux machine


def _this_clock() -> int:
    """63 bits that no other machine and no earlier start of this one has; 0 where nobody can tell."""
    return uuid.UUID(BOOT_ID.read_text().strip()).int >> 65 if BOOT_ID.is_file() else 0


THIS_CLOCK = _this_clock()


@dataclass(frozen=True, slots=True)
class Deadline:
    """``moment`` is in seconds of the monotonic clock ``clock``."""

    moment: float = math.inf
    clock: int = THIS_CLOCK

    @staticmethod
    def within(seconds: float) -> Deadline:
        """That many seconds from now."""
        return Deadline(time.monotonic() + seconds)

    def has_passed(self) -> bool:
        """Whether it is over; False by the clock of another machine, which nobody can tell here."""
        return self.clock == THIS_CLOCK and time.monotonic() > self.moment


NEVER = Deadline()
