"""Intervals on data whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pinrec_core.evaluation import bootstrap
from pinrec_core.evaluation.bootstrap import mean_interval, ratio_interval


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        interval = mean_interval(random.exponential(size=100), resamples=300, seed=trial)
        covered += interval.low <= 1.0 <= interval.high
    # 95% of 300 is 285, with a deviation of 3.8; a skewed distribution and 100 users cost a few points of coverage.
    assert 0.89 < covered / 300 < 0.985


def test_the_width_is_that_of_the_normal_approximation():
    value = np.random.default_rng(1).normal(5, 2, size=4000)
    interval = mean_interval(value)
    expected = 2 * 1.96 * value.std() / math.sqrt(len(value))
    assert interval.high - interval.low == pytest.approx(expected, rel=0.1)  # 2,000 resamples: a few percent of noise
    assert interval.value == pytest.approx(value.mean())


def test_equal_subjects_have_a_ratio_of_one_without_width():
    value = np.random.default_rng(2).random(200)
    interval = ratio_interval(value, value)
    assert (interval.value, interval.low, interval.high) == (1.0, 1.0, 1.0)


def test_pairing_takes_out_what_users_have_in_common():
    random = np.random.default_rng(3)
    ability = random.exponential(size=500)
    value, baseline = ability * 1.1 + random.normal(0, 0.01, 500), ability
    paired = ratio_interval(value, baseline)
    unpaired = ratio_interval(random.permutation(value), baseline)
    assert paired.low > 1.09
    assert paired.high < 1.11
    assert unpaired.high - unpaired.low > 20 * (paired.high - paired.low)


def test_seeds_are_averaged_per_user_and_may_differ_in_number():
    value = np.array([[1.0, 3.0], [3.0, 5.0]])  # two seeds: users score 2 and 4
    assert mean_interval(value).value == 3.0
    assert (mean_interval(value).low, mean_interval(value).high) == (2.0, 4.0)
    assert ratio_interval(value, np.array([1.0, 1.0])).value == 3.0


def test_weights_make_a_share_of_unequal_trials():
    hits, trials = np.array([1, 0, 3]), np.array([2, 0, 4])
    assert mean_interval(hits, trials).value == pytest.approx(4 / 6)


def test_blocks_do_not_change_the_result(monkeypatch):
    value = np.random.default_rng(4).random(50)
    whole = mean_interval(value, resamples=500)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 60)
    assert mean_interval(value, resamples=500) == whole


def test_nothing_to_divide_by_is_said_and_not_hidden():
    zeros, ones = np.zeros(5), np.ones(5)
    assert math.isnan(ratio_interval(zeros, zeros).value)
    assert ratio_interval(ones, zeros).low == math.inf
    assert ratio_interval(zeros, zeros).to_dict() == {"value": None, "low": None, "high": None}
    with pytest.raises(ValueError, match="expected 5"):
        ratio_interval(ones, np.ones(4))
