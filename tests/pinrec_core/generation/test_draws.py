"""What is drawn for a request: by user and time, and a stream for each purpose."""

from __future__ import annotations

import numpy as np
import pytest

from pinrec_core.config.sections import Allocation
from pinrec_core.generation.budget import allocate
from pinrec_core.generation.draws import Draw, random_stream, seed_of
from pinrec_core.generation.inputs import draw_feedback_outcomes


@pytest.mark.parametrize("user", [0, -1, (1 << 63) - 1, "ann", "böb"])
def test_a_seed_is_one_that_a_request_may_name(user):
    seeds = {seed_of(user, time) for time in (0, 1, 1_700_000_000, (1 << 63) - 1, -5)}
    assert len(seeds) == 5
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_users_are_fed_back_different_outcomes_in_the_proportion_of_the_budget():
    """With one seed for everybody, all of them would be fed the same sequence."""
    budget = np.array([0.7, 0.3])
    drawn = np.stack([draw_feedback_outcomes(budget, 6, seed_of(user, 1_700_000_000)) for user in range(2000)])
    assert len(np.unique(drawn, axis=0)) == 2**5
    assert drawn.mean() == pytest.approx(0.3, abs=0.02)  # 10,000 draws: four standard errors


def test_what_is_rounded_up_does_not_follow_from_what_is_fed_back():
    """Half an item is left over for each of two outcomes. Which one gets it is as likely for both feedback outcomes."""
    budget, weight = np.full((1, 2), 0.5), np.ones((1, 2, 1))
    pairs = np.array([
        (draw_feedback_outcomes(budget[0], 2, seed)[0],
         allocate(budget, weight, [1], Allocation.STOCHASTIC, [seed])[0, 1, 0])
        for seed in range(2000)
    ])  # fmt: skip
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.09  # four standard errors of 2,000 pairs
    for column in pairs.T:
        assert column.mean() == pytest.approx(0.5, abs=0.045)


def test_streams_are_the_same_again():
    for draw in Draw:
        assert random_stream(7, draw).random(3).tolist() == random_stream(7, draw).random(3).tolist()
    assert random_stream(7, Draw.FEEDBACK).random() != random_stream(7, Draw.ALLOCATION).random()
