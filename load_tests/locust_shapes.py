"""The shapes for Locust's own command line and web interface, which change the number of users.

A user has a constant rate there (``--user-rate``), so a rate becomes the number of users that reaches it, and Locust
follows it once a second. Nothing here stops at saturation: that is what ``python -m load_tests`` does.
"""

from __future__ import annotations

import math
from argparse import Namespace

from locust import LoadTestShape
from locust.util.timespan import parse_timespan

from load_tests.options import shape_options
from load_tests.shapes import Schedule, Shape


class SteadyShape(LoadTestShape):
    """As many users as Locust was asked for (``--users``, ``--spawn-rate``), until ``--run-time`` is over.

    Locust takes the first shape of the file where none is chosen, so this one does what it does without a shape.
    """

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        options = _options(self)
        limit = options.run_time
        seconds = parse_timespan(limit) if isinstance(limit, str) else limit
        if seconds and self.get_run_time() >= seconds:
            return None
        return options.num_users or 1, options.spawn_rate or 1


class ScheduledShape(LoadTestShape):
    """The users that reach the rate of a schedule, which the options of the shape make."""

    abstract = True
    shape: Shape

    def tick(self) -> tuple[int, float] | None:
        options = _options(self)
        rate = self._schedule(options).rate_at(self.get_run_time())
        users = math.ceil(rate / options.user_rate)
        return (users, max(users, 1)) if rate else None

    def _schedule(self, options: Namespace) -> Schedule:
        return shape_options(options).schedule(self.shape)


class RampShape(ScheduledShape):
    """Steps of rising rate up to ``--max-rate``."""

    shape = Shape.RAMP


class SpikeShape(ScheduledShape):
    """``--rate``, then ``--factor`` times as much, then ``--rate`` again."""

    shape = Shape.SPIKE


class SoakShape(ScheduledShape):
    """``--rate`` for a long time."""

    shape = Shape.SOAK


def _options(shape: LoadTestShape) -> Namespace:
    assert shape.runner is not None
    assert shape.runner.environment.parsed_options is not None
    return shape.runner.environment.parsed_options
