"""Decides whether a failed call is tried again, and after which pause. The clients do the waiting.

The pauses grow exponentially, are drawn at random (jitter) and fit into the time that the caller gave. When the service
says how long it wants to be left alone, no pause is shorter. Only an unavailable service is tried again, and only while
most attempts succeed: a budget that the calls of a model share keeps retries from multiplying an overload. Repeating
is safe for every call: a recommendation only reads, and the store keeps one copy of an event, identified by user,
timestamp and event id.
"""

from __future__ import annotations

import math
import random
import threading
import time
import uuid
from dataclasses import dataclass

from pinrec_client.endpoints import Endpoint
from pinrec_client.errors import UnavailableError, require
from pinrec_client.metadata import Metadata

LONGEST_REQUEST_ID = 256  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a call is tried again, how long the pauses before that may be, and what all calls together may.

    After the first attempt there are at most ``retries`` further ones. The pause before retry n = 0, 1, … is drawn
    uniformly from [0, min(first_pause · 2ⁿ, longest_pause)] seconds, and is added to what the service asked for.

    ``budget`` is the size of a retry budget, a bucket of tokens that is full at first (``RetryBudget``).
    Recommendations and events have one each. With the defaults, 24 attempts that fail at once are tried again, and in
    the long run there is one retry for ten successes. Raises ``InvalidRequestError``.
    """

    retries: int = 2
    first_pause: float = 0.05
    longest_pause: float = 1.0
    budget: float = 50.0
    budget_ratio: float = 0.1

    def __post_init__(self) -> None:
        require(self.retries >= 0, "retries", self.retries, "at least 0")
        for name in ("first_pause", "longest_pause"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "seconds from 0")
        require(0 <= self.budget < math.inf, "budget", self.budget, "a number of tokens from 0")
        require(0 <= self.budget_ratio <= 1, "budget_ratio", self.budget_ratio, "tokens per success, from 0 to 1")

    def longest_pause_before(self, retry: int) -> float:
        """The upper bound of the pause before retry 0, 1, …, in seconds, beside what the service asked for."""
        return min(self.first_pause * 2.0 ** min(retry, 64), self.longest_pause)


class RetryBudget:
    """The retry budget of one model at a client, as in gRPC's retry throttling. Threads share it.

    An attempt that fails because the service is unavailable takes a token, one that succeeds puts back
    ``budget_ratio`` of a token, up to the ``budget``. While not more than half of the budget is left, nothing is tried
    again and nothing is hedged. So an overloaded service meets little more than one attempt per call.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._size = policy.budget
        self._ratio = policy.budget_ratio
        self._tokens = self._size
        self._lock = threading.Lock()

    @property
    def allows(self) -> bool:
        """Whether there may be another attempt now."""
        return self._tokens > self._size / 2

    def succeeded(self) -> None:
        """Put back a part of a token."""
        if self._tokens < self._size:
            with self._lock:
                self._tokens = min(self._tokens + self._ratio, self._size)

    def failed(self) -> None:
        """Take a token."""
        with self._lock:
            self._tokens = max(self._tokens - 1, 0.0)

    def take(self) -> bool:
        """Take a token for an attempt that repeats none, if there may be one."""
        with self._lock:
            if not self.allows:
                return False
            self._tokens = max(self._tokens - 1, 0.0)
            return True


class Call:
    """The state of one call, which all its attempts share: request id, metadata, deadline, and what was tried.

    ``timeout`` is in seconds. Without a ``request_id`` the call gets a random one. Raises ``InvalidRequestError``.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        budget: RetryBudget,
        timeout: float,
        *,
        request_id: str | None = None,
        metadata: Metadata = (),
    ) -> None:
        require(timeout > 0, "timeout", timeout, "seconds above 0")
        if request_id is not None:
            usable = isinstance(request_id, str) and 0 < len(request_id) <= LONGEST_REQUEST_ID
            require(usable and request_id.isprintable(), "request_id", request_id,
                    f"1 to {LONGEST_REQUEST_ID} printable characters")  # fmt: skip
        self.request_id = request_id or uuid.uuid4().hex
        self.timeout = timeout
        self.metadata = metadata
        self.tried: list[Endpoint] = []
        self._policy = policy
        self._budget = budget
        self._deadline = time.monotonic() + timeout
        self._retries = 0

    def remaining(self) -> float:
        """Seconds until the deadline. After it, 0: gRPC then fails at once with DEADLINE_EXCEEDED."""
        return max(self._deadline - time.monotonic(), 0.0)

    def pause_before_retry(self, error: UnavailableError) -> float:
        """Seconds to wait before the next attempt. Raises the error when there is not to be one."""
        if error.no_retry or self._retries >= self._policy.retries or not self._budget.allows:
            raise error
        # Full jitter, so that clients whose calls failed together do not all come back at the same moment.
        pause = (error.retry_after or 0.0) + random.uniform(0.0, self._policy.longest_pause_before(self._retries))
        if pause >= self.remaining():
            raise error
        self._retries += 1
        return pause


NO_RETRY = RetryPolicy(retries=0)
