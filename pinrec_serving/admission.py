"""How many requests may be worked on at once, so that none takes much longer than it should.

By Little's law a request is in a server for as long as the others in it take to be served: in flight / rate. The rate
at which a release is served on a machine is known when more comes than can be served, so the limit follows from it
then.
"""

from __future__ import annotations

LEAST = 4  # in flight: fewer do not keep four stages at work
SMOOTHING = 0.5  # weight of the newest rate
GROWTH = 1.25  # of the limit per reading without a refusal


class InFlightLimit:
    """At most ``most`` in flight, and no more than are served within ``target_seconds`` while requests are refused."""

    def __init__(self, *, most: int, target_seconds: float) -> None:
        self._least = min(LEAST, most)
        self._most = most
        self._target = target_seconds
        self._rate: float | None = None
        self.limit = most

    def after(self, *, served: float, refused: float, seconds: float) -> int:
        """The limit from now on, after ``served`` and ``refused`` requests within ``seconds``."""
        if refused > 0:
            rate = served / seconds
            self._rate = rate if self._rate is None else SMOOTHING * rate + (1 - SMOOTHING) * self._rate
            wanted = round(self._rate * self._target)
        else:
            self._rate = None
            wanted = round(self.limit * GROWTH) + 1
        self.limit = min(max(wanted, self._least), self._most)
        return self.limit
