"""Which pairs of position and item a training step scores, against hand-made rows and exhaustive definitions."""

from __future__ import annotations

import torch

from pinrec_core.objective.targets import Targets, draw_all_actions, draw_windows
from pinrec_core.representations.time_features import DAY


def pairs(targets: Targets) -> list[tuple[int, int, int]]:
    """The user, position and target of every pair, sorted."""
    return sorted(zip(targets.user.tolist(), targets.position.tolist(), targets.target.tolist(), strict=True))


def test_next_item_prediction_is_one_window_per_target():
    """With δ = W = 1 every target is predicted once, from the hidden state before it, and nothing else is predicted."""
    is_target = torch.tensor([[True, False, True, False], [True, True, True, True]])
    targets = draw_windows(is_target, max_offset=1, window=1, windows=100)
    assert pairs(targets) == [(0, 0, 0), (0, 2, 2), (1, 0, 0), (1, 1, 1), (1, 2, 2), (1, 3, 3)]
    assert targets.offset.unique().tolist() == [1]
    assert targets.window.tolist() == list(range(targets.num_windows))


def test_a_window_holds_all_its_targets_and_no_other():
    torch.manual_seed(0)
    is_target = torch.rand(5, 20) < 0.6
    targets = draw_windows(is_target, max_offset=4, window=3, windows=10_000)
    for w in range(targets.num_windows):
        of_window = targets.window == w
        (user,) = targets.user[of_window].unique().tolist()
        (position,) = targets.position[of_window].unique().tolist()
        (offset,) = targets.offset[of_window].unique().tolist()
        first = position + offset - 1
        expected = [t for t in range(first, min(first + 3, 20)) if is_target[user, t]]
        assert sorted(targets.target[of_window].tolist()) == expected != []


def test_every_offset_of_every_position_is_a_window_as_long_as_it_leads_to_a_target():
    """The hidden state before the last target reaches it with offset 1 alone, the one before that with 1 or 2, etc."""
    is_target = torch.tensor([[True, True, False, True, False, False]])
    targets = draw_windows(is_target, max_offset=3, window=2, windows=100)
    drawn = set(zip(targets.position.tolist(), targets.offset.tolist(), strict=True))
    assert drawn == {(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1)}
    assert targets.num_windows == len(drawn)


def test_windows_are_drawn_from_all_of_them():
    """A history of eight has 36 windows, of which two are drawn at a time. All are equally likely."""
    is_target = torch.ones(1, 8, dtype=torch.bool)
    torch.manual_seed(0)
    drawn = torch.zeros(8, 9)
    for _ in range(3600):
        targets = draw_windows(is_target, max_offset=8, window=1, windows=2)
        drawn[targets.position, targets.offset] += 1
    # Each of the 36 windows is drawn 200 times on average, with a standard deviation of 14.
    assert ((drawn[drawn > 0] - 200).abs() < 70).all()
    assert (drawn > 0).sum() == 36


def test_windows_are_bounded():
    is_target = torch.ones(8, 50, dtype=torch.bool)
    assert draw_windows(is_target, max_offset=1, window=1, windows=64).num_windows == 64
    assert draw_windows(is_target, max_offset=4, window=4, windows=64).num_windows == 64
    assert draw_all_actions(is_target, torch.zeros(8, 50).long(), horizon_days=1, windows=64).num_windows == 64


def test_all_actions_are_drawn_from_the_days_that_follow():
    """Interactions are on days 0, 1, 10 and 40, with a search query on day 2 and padding at the end. Targets lie within
    28 days of the last interaction that a position has seen."""
    timestamp = torch.tensor([[0, 1 * DAY, 2 * DAY, 10 * DAY, 40 * DAY, 0, 0]])
    is_target = torch.tensor([[True, True, False, True, True, False, False]])
    torch.manual_seed(0)
    drawn = set()
    for _ in range(200):
        drawn |= set(pairs(draw_all_actions(is_target, timestamp, horizon_days=28, windows=100)))
    # The start token and the first item look 28 days ahead from day 0, the others from days 1, 2 and 10; from day 10
    # the horizon ends on day 38.
    expected = {0: (0, 1, 3), 1: (1, 3), 2: (3,), 3: (3,)}
    assert drawn == {(0, position, target) for position, choices in expected.items() for target in choices}


def test_all_actions_are_equally_likely():
    is_target = torch.ones(2000, 5, dtype=torch.bool)
    torch.manual_seed(0)
    targets = draw_all_actions(is_target, torch.zeros(2000, 5).long(), horizon_days=1, windows=10**6)
    counts = torch.bincount(targets.target[targets.position == 0], minlength=5)
    # 2000 draws from 5 choices have a standard deviation of 18.
    assert ((counts - 400).abs() < 90).all()
