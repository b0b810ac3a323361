"""Time features: phases and gaps by hand, and their precision."""

from __future__ import annotations

import math

import pytest
import torch

from pinrec_core.representations.time_features import (
    DAY,
    HOUR,
    PERIODS,
    WIDTH,
    YEAR,
    previous_timestamps,
    time_features,
)

NOW = 1_750_000_000


def test_phases_by_hand():
    start = 16 * YEAR  # every period starts there
    got = time_features(torch.tensor([start + 6 * HOUR]), torch.tensor([start + 6 * HOUR]))[0]
    assert got.shape == (WIDTH,)
    of_day = PERIODS.index(DAY)
    assert got[of_day].item() == pytest.approx(1.0)  # a quarter of a day: sine 1, cosine 0
    assert got[len(PERIODS) + of_day].item() == pytest.approx(0.0, abs=1e-6)
    assert got[-1] == 0


def test_a_second_shows_in_the_shortest_period():
    """In float32 a Unix time is off by up to a minute."""
    a, b = (time_features(torch.tensor([NOW + s]), torch.tensor([NOW])) for s in (0, 1))
    of_hour = PERIODS.index(HOUR)
    angle = [math.atan2(x[0, of_hour], x[0, len(PERIODS) + of_hour]) for x in (a, b)]
    assert angle[1] - angle[0] == pytest.approx(2 * math.pi / HOUR, rel=1e-3)


def test_the_gap_is_logarithmic_and_stays_between_0_and_1():
    gaps = torch.tensor([0, 60, DAY, YEAR, 20 * YEAR])
    got = time_features(torch.full_like(gaps, NOW), NOW - gaps)[:, -1]
    assert got.tolist() == pytest.approx(
        [0, math.log1p(60) / math.log1p(YEAR), math.log1p(DAY) / math.log1p(YEAR), 1, 1]
    )
    assert time_features(torch.tensor([NOW]), torch.tensor([NOW + DAY]))[0, -1] == 0  # a clock that ran ahead


def test_the_first_action_follows_itself():
    assert previous_timestamps(torch.tensor([[5, 7, 9]])).tolist() == [[5, 5, 7]]
