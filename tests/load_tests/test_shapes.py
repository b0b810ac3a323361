"""Schedules: which steps each shape has, and that arrivals come at their rates."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from load_tests.shapes import AFTER, BEFORE, SPIKE, WARM_UP, WHOLE, Shape, ShapeOptions, constant
from pinrec_core.errors import ConfigError


def test_steady_is_one_step_after_the_warm_up():
    schedule = ShapeOptions(rate=5, duration=10, warm_up=2).schedule(Shape.STEADY)
    assert [(s.name, s.start, s.end, s.rate) for s in schedule.steps] == [(WARM_UP, 0, 2, 5), (WHOLE, 2, 12, 5)]
    assert (schedule.start, schedule.end) == (2, 12)
    assert ShapeOptions(warm_up=0).schedule(Shape.STEADY).start == 0


def test_a_ramp_rises_by_its_factor_up_to_the_highest_rate():
    schedule = ShapeOptions(rate=10, factor=2, max_rate=80, duration=4, warm_up=0).schedule(Shape.RAMP)
    assert [step.rate for step in schedule.steps] == [10, 20, 40, 80]
    assert [step.name for step in schedule.steps] == ["step 1", "step 2", "step 3", "step 4"]
    assert all(before.end == after.start for before, after in pairwise(schedule.steps))
    assert schedule.steps[1].settled == 4 + 4 / 5


def test_a_spike_comes_and_goes():
    options = ShapeOptions(rate=10, factor=3, duration=4, spike_duration=2, recovery_duration=6, warm_up=1)
    schedule = options.schedule(Shape.SPIKE)
    assert [(s.name, s.start, s.end, s.rate) for s in schedule.measured] == [
        (BEFORE, 1, 5, 10), (SPIKE, 5, 7, 30), (AFTER, 7, 13, 10),
    ]  # fmt: skip
    assert [schedule.rate_at(time) for time in (0, 4.9, 5, 7, 13)] == [10, 10, 30, 10, 0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rate": 0}, "--rate=0: expected a value above 0"),
        ({"duration": -1}, "--duration=-1: expected a value above 0"),
        ({"factor": 1}, "--factor=1: expected a value above 1"),
        ({"rate": 50, "max_rate": 20}, "--max-rate=20: expected at least --rate=50"),
    ],
)
def test_numbers_that_make_no_shape_are_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ShapeOptions(**options)


def test_arrivals_ascend_and_follow_the_rate_of_their_step():
    options = ShapeOptions(rate=50, factor=4, duration=100, spike_duration=100, recovery_duration=100, warm_up=0)
    schedule = options.schedule(Shape.SPIKE)
    arrivals = list(schedule.arrivals(Random(0), share=0.5))
    assert arrivals == sorted(arrivals)
    for step in schedule.steps:
        expected = step.rate * 0.5 * 100
        got = sum(step.start <= time < step.end for time in arrivals)
        # Six standard deviations of a Poisson count: with another seed it would hold all the same.
        assert abs(got - expected) < 6 * expected**0.5, step.name


def test_a_constant_rate_has_no_end():
    arrivals = constant(1000.0).arrivals(Random(0))
    assert sum(1 for time, _ in zip(arrivals, range(10_000), strict=False) if time < 9) > 8000
