"""A deadline is told by one clock, and means nothing to a machine that has another."""

from __future__ import annotations

import time
from dataclasses import replace

from pinrec_core.deadline import NEVER, THIS_CLOCK, Deadline


def test_a_deadline_passes() -> None:
    soon = Deadline.within(0.05)
    assert not soon.has_passed()
    time.sleep(0.06)
    assert soon.has_passed()
    assert not NEVER.has_passed()


def test_another_clock_tells_nothing() -> None:
    past = Deadline.within(-1.0)
    assert past.has_passed()
    assert not replace(past, clock=THIS_CLOCK + 1).has_passed()


def test_a_clock_fits_where_it_travels() -> None:
    assert 0 <= THIS_CLOCK < 2**63
