"""When to try again: jittered exponential back-off, inside the time the caller gave. Never sleeps itself.

Only an unavailable service is tried again. Both calls may be repeated: a recommendation is a read, and the store
keeps an event (user, timestamp, event id) once.
"""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import dataclass

from tritonclient.utils import InferenceServerException

from pinrec_client.errors import UnavailableError, from_triton, require


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """At most ``retries`` further attempts. Before the n-th of them (from 0) a pause is drawn uniformly from
    [0, first_pause · 2ⁿ], its upper end at most ``longest_pause``; seconds."""

    retries: int = 2
    first_pause: float = 0.05
    longest_pause: float = 1.0

    def longest_pause_before(self, retry: int) -> float:
        """The upper end of the pause before retry 0, 1, …; seconds."""
        return min(self.first_pause * 2**retry, self.longest_pause)


class Call:
    """One call: its id, what is left of its time, and how often it was tried. All attempts share one request id."""

    def __init__(self, policy: RetryPolicy, timeout: float) -> None:
        require(timeout > 0, "timeout", timeout, "seconds above 0")
        self.request_id = uuid.uuid4().hex
        self._policy = policy
        self._deadline = time.monotonic() + timeout
        self._retries = 0

    def remaining(self) -> float:
        """Seconds left; 0 when the time is over, which gRPC answers with DEADLINE_EXCEEDED."""
        return max(self._deadline - time.monotonic(), 0.0)

    def pause_before_retry(self, cause: InferenceServerException) -> float:
        """Seconds to wait before the next attempt. Raises the failure when there shall be none."""
        error = from_triton(cause, self.request_id)
        if not isinstance(error, UnavailableError) or self._retries >= self._policy.retries:
            raise error from cause
        # Full jitter: clients that failed together must not come back together.
        pause = random.uniform(0.0, self._policy.longest_pause_before(self._retries))
        if pause >= self.remaining():
            raise error from cause
        self._retries += 1
        return pause


NO_RETRY = RetryPolicy(retries=0)
