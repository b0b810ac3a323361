"""Decides whether a failed call is tried again, and after which pause. The clients do the waiting.

The pauses grow exponentially, are drawn at random (jitter) and fit into the time that the caller gave. Only an
unavailable service is tried again. Repeating is safe for every call: a recommendation only reads, and the store keeps
one copy of an event, identified by user, timestamp and event id.
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
    """How often a call is tried again, and how long the pauses before that may be, in seconds.

    After the first attempt there are at most ``retries`` further ones. The pause before retry n = 0, 1, … is drawn
    uniformly from [0, min(first_pause · 2ⁿ, longest_pause)].
    """

    retries: int = 2
    first_pause: float = 0.05
    longest_pause: float = 1.0

    def longest_pause_before(self, retry: int) -> float:
        """The upper bound of the pause before retry 0, 1, …, in seconds."""
        return min(self.first_pause * 2**retry, self.longest_pause)


class Call:
    """The state of one call: its request id, its deadline, and the number of retries. All its attempts share them.

    ``timeout`` is in seconds. Raises ``InvalidRequestError`` unless it is above 0.
    """

    def __init__(self, policy: RetryPolicy, timeout: float) -> None:
        require(timeout > 0, "timeout", timeout, "seconds above 0")
        self.request_id = uuid.uuid4().hex
        self._policy = policy
        self._deadline = time.monotonic() + timeout
        self._retries = 0

    def remaining(self) -> float:
        """Seconds until the deadline. After it, 0: gRPC then fails at once with DEADLINE_EXCEEDED."""
        return max(self._deadline - time.monotonic(), 0.0)

    def pause_before_retry(self, cause: InferenceServerException) -> float:
        """Seconds to wait before the next attempt. Raises the failure when it is not to be tried again."""
        error = from_triton(cause, self.request_id)
        if not isinstance(error, UnavailableError) or self._retries >= self._policy.retries:
            raise error from cause
        # Full jitter, so that clients whose calls failed together do not all come back at the same moment.
        pause = random.uniform(0.0, self._policy.longest_pause_before(self._retries))
        if pause >= self.remaining():
            raise error from cause
        self._retries += 1
        return pause


NO_RETRY = RetryPolicy(retries=0)
