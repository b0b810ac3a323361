"""Which rate is offered when: a schedule of steps, each with Poisson arrivals at a constant rate.

Knows neither Locust nor a clock. All times are seconds from the schedule's start.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from pinrec_core.errors import ConfigError, require

LONGEST_SETTLING = 2.0  # seconds


class Shape(StrEnum):
    """How the rate of arrivals changes during a run."""

    STEADY = "steady"
    RAMP = "ramp"
    SPIKE = "spike"
    SOAK = "soak"


DEFAULT_DURATION = {Shape.STEADY: 30.0, Shape.RAMP: 10.0, Shape.SPIKE: 20.0, Shape.SOAK: 3600.0}
"""Seconds: of the whole run, of one step of a ramp, or of the time before a spike."""
DEFAULT_FACTOR = {Shape.RAMP: 1.25, Shape.SPIKE: 5.0}
"""By how much each step of a ramp is faster than the one before, and a spike than the time before it."""

WARM_UP, WHOLE, BEFORE, SPIKE, AFTER = "warm-up", "whole run", "before", "spike", "after"
"""Names of steps. Those of a ramp are called ``step 1``, ``step 2``, …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Arrivals at ``rate`` per second in [start, end). Requests count from ``settled`` on."""

    name: str
    start: float
    end: float
    rate: float

    @property
    def settled(self) -> float:
        """The first part of a step still shows the step before, so it is left out: a fifth of it, at most 2 s."""
        return self.start + min((self.end - self.start) / 5, LONGEST_SETTLING)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps that follow one another without a gap. The warm-up, which is not measured, comes first if there is one."""

    steps: tuple[Step, ...]

    @property
    def measured(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.name != WARM_UP)

    @property
    def start(self) -> float:
        """When the measured time begins."""
        return self.measured[0].start

    @property
    def end(self) -> float:
        return self.steps[-1].end

    def step(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)

    def rate_at(self, time: float) -> float:
        """Arrivals per second at a time; 0 when the schedule is over."""
        return next((step.rate for step in self.steps if step.start <= time < step.end), 0.0)

    def arrivals(self, random: Random, share: float = 1.0) -> Iterator[float]:
        """The arrivals, ascending, of a Poisson process that has a ``share`` of the schedule's rate.

        A Poisson process has no memory, so it may begin anew wherever the rate changes.
        """
        for step in self.steps:
            time = step.start
            while (time := time + random.expovariate(step.rate * share)) < step.end:
                yield time


def constant(rate: float, seconds: float = math.inf) -> Schedule:
    """One step, for ever unless ``seconds`` are given."""
    return Schedule((Step(name=WHOLE, start=0.0, end=seconds, rate=rate),))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeOptions:
    """The numbers of a shape; ``None`` stands for the default of the shape. Durations are in seconds.

    Raises ``ConfigError``.
    """

    rate: float = 20.0
    duration: float | None = None
    factor: float | None = None
    max_rate: float = 1000.0
    spike_duration: float = 10.0
    recovery_duration: float = 60.0
    warm_up: float = 3.0

    def __post_init__(self) -> None:
        for name in ("rate", "duration", "max_rate", "spike_duration", "recovery_duration"):
            value = getattr(self, name)
            option = f"--{name.replace('_', '-')}"
            require(value is None or value > 0, option, value, "a value above 0", error=ConfigError)
        require(self.factor is None or self.factor > 1, "--factor", self.factor, "a value above 1", error=ConfigError)
        require(self.warm_up >= 0, "--warm-up", self.warm_up, "a value of at least 0", error=ConfigError)
        require(self.max_rate >= self.rate, "--max-rate", self.max_rate, f"at least --rate={self.rate:g}",
                error=ConfigError)  # fmt: skip

    def schedule(self, shape: Shape) -> Schedule:
        """The schedule of a shape: a warm-up at the first rate, if its duration is above 0, and then the shape."""
        duration = self.duration or DEFAULT_DURATION[shape]
        factor = self.factor or DEFAULT_FACTOR.get(shape, 1.0)
        spans: list[tuple[str, float, float]] = [(WARM_UP, self.warm_up, self.rate)] if self.warm_up else []
        if shape is Shape.RAMP:
            number = 1 + math.floor(math.log(self.max_rate / self.rate, factor) + 1e-9)  # of exact powers, too
            spans += [(f"step {k + 1}", duration, self.rate * factor**k) for k in range(number)]
        elif shape is Shape.SPIKE:
            spans += [
                (BEFORE, duration, self.rate),
                (SPIKE, self.spike_duration, self.rate * factor),
                (AFTER, self.recovery_duration, self.rate),
            ]
        else:
            spans.append((WHOLE, duration, self.rate))
        steps, start = [], 0.0
        for name, seconds, rate in spans:
            steps.append(Step(name=name, start=start, end=start + seconds, rate=rate))
            start += seconds
        return Schedule(tuple(steps))
