"""Which pairs of position and item a training step scores, against hand-made rows and exhaustive definitions."""

from __future__ import annotations

import torch

from pinrec_core.objective.targets import (
    Targets,
    draw_all_actions,
    draw_windows,
    windows_by_position,
    windows_by_time,
)
from pinrec_core.representations.time_features import DAY


def pairs(targets: Targets) -> list[tuple[int, int, int]]:
    """The user, position and target of every pair, sorted."""
    return sorted(zip(targets.user.tolist(), targets.position.tolist(), targets.target.tolist(), strict=True))


def windows_of(
    is_target: torch.Tensor, *, max_offset: int, window: int, windows: int, next_window: int | None = None,
    next_share: float | None = None,
) -> Targets:  # fmt: skip
    """Windows whose offsets count items; unless given, of equal length and equally often of each offset."""
    return draw_windows(
        is_target, windows_by_position(is_target, max_offset), window=window, next_window=next_window or window,
        windows=windows, next_share=1 / max_offset if next_share is None else next_share,
    )  # fmt: skip


def test_next_item_prediction_is_one_window_per_target():
    """With δ = W = 1 every target is predicted once, from the hidden state before it, and nothing else is predicted."""
    is_target = torch.tensor([[True, False, True, False], [True, True, True, True]])
    targets = windows_of(is_target, max_offset=1, window=1, windows=100)
    assert pairs(targets) == [(0, 0, 0), (0, 2, 2), (1, 0, 0), (1, 1, 1), (1, 2, 2), (1, 3, 3)]
    assert targets.offset.unique().tolist() == [1]
    assert targets.window.tolist() == list(range(targets.num_windows))


def test_a_window_holds_all_its_targets_and_no_other():
    torch.manual_seed(0)
    is_target = torch.rand(5, 20) < 0.6
    targets = windows_of(is_target, max_offset=4, window=3, windows=10_000)
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
    targets = windows_of(is_target, max_offset=3, window=2, windows=100)
    drawn = set(zip(targets.position.tolist(), targets.offset.tolist(), strict=True))
    assert drawn == {(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1)}
    assert targets.num_windows == len(drawn)


def test_windows_are_drawn_from_all_of_them():
    """A history of eight has 8 windows at δ = 1 and 28 at the other offsets, of which one each is drawn at a time."""
    is_target = torch.ones(1, 8, dtype=torch.bool)
    torch.manual_seed(0)
    drawn = torch.zeros(8, 9)
    for _ in range(5600):
        targets = windows_of(is_target, max_offset=8, window=1, windows=2, next_share=0.5)
        drawn[targets.position, targets.offset] += 1
    # Each window is drawn 700 or 200 times on average, with a standard deviation of 25 or 14.
    assert ((drawn[:, 1] - 700).abs() < 125).all()
    later = drawn[:, 2:]
    assert ((later[later > 0] - 200).abs() < 70).all()
    assert (drawn > 0).sum() == 36


def test_the_next_item_has_its_share_and_a_window_of_its_own():
    torch.manual_seed(0)
    is_target = torch.ones(4, 50, dtype=torch.bool)
    targets = windows_of(is_target, max_offset=8, window=4, windows=100, next_window=1, next_share=0.3)
    assert targets.num_windows == 100
    is_next = targets.offset == 1
    assert is_next.sum() == 30  # a target each
    assert (targets.target[is_next] == targets.position[is_next]).all()
    assert targets.window[~is_next].unique().numel() == 70
    full = targets.window[~is_next].bincount().max()
    assert full == 4


def test_windows_that_one_kind_lacks_are_drawn_from_the_other():
    """One position has no later offset. One target at the end is the next item of one position, and ahead of seven."""
    is_target = torch.ones(30, 1, dtype=torch.bool)
    alone = windows_of(is_target, max_offset=4, window=2, windows=20, next_share=0.5)
    assert alone.num_windows == 20
    assert alone.offset.unique().tolist() == [1]
    is_target = torch.zeros(1, 60, dtype=torch.bool)
    is_target[0, 59] = True
    rare = windows_of(is_target, max_offset=8, window=1, windows=8, next_share=0.5)
    assert rare.num_windows == 8
    assert (rare.offset == 1).sum() == 1


def test_offsets_in_time_lead_to_the_first_item_that_is_so_far_ahead():
    """Of a window of two, at 0, 60 and 600 s: what a position can reach depends on when its own last item was."""
    timestamp = torch.tensor([[100, 110, 170, 1000, 1000, 0]])  # five items, and padding
    first = windows_by_time(timestamp, torch.tensor([5]), (0, 60, 600))
    assert first[0].tolist() == [
        [0, 2, 3],  # the clock of the start token starts at 100
        [1, 2, 3],
        [2, 2, 3],  # the item at 170 is the next one, and 60 s ahead
        [3, 3, 3],
        [4, 6, 6],  # of two items at once the next is now; nothing is later
        [5, 6, 6],  # there is no next item: not a target below
    ]
    is_target = torch.tensor([[True] * 5 + [False]])
    drawn = draw_windows(is_target, first, window=2, next_window=2, windows=100, next_share=0.5)
    of_position_1 = drawn.position == 1
    found = zip(drawn.offset[of_position_1].tolist(), drawn.target[of_position_1].tolist(), strict=True)
    assert sorted(found) == [(1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (3, 4)]
    assert drawn.position.max() == 4


def test_offsets_in_time_and_by_position_are_the_same_where_one_item_comes_a_second():
    torch.manual_seed(0)
    is_target = torch.rand(4, 12) < 0.7
    length = torch.tensor([12, 12, 7, 1])
    is_target &= torch.arange(12) < length.unsqueeze(1)
    timestamp = torch.where(torch.arange(12) < length.unsqueeze(1), torch.arange(1, 13), 0)
    by_time = draw_windows(
        is_target, windows_by_time(timestamp, length, (0, 2, 3)), window=2, next_window=2, windows=1000, next_share=0.5
    )
    by_position = windows_of(is_target, max_offset=3, window=2, windows=1000)
    # The first position has seen nothing: its clock stands at the first item, one second later than elsewhere.
    later = lambda t: sorted(  # noqa: E731
        row for row in zip(t.user.tolist(), t.position.tolist(), t.offset.tolist(), t.target.tolist(), strict=True)
        if row[1] > 0
    )  # fmt: skip
    assert later(by_time) == later(by_position)


def test_windows_are_bounded():
    is_target = torch.ones(8, 50, dtype=torch.bool)
    assert windows_of(is_target, max_offset=1, window=1, windows=64).num_windows == 64
    assert windows_of(is_target, max_offset=4, window=4, windows=64).num_windows == 64
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
