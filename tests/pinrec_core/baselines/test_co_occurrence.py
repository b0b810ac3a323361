"""Co-occurrence against plain counting, by hand, and streamed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pinrec_core.baselines import co_occurrence
from pinrec_core.baselines.co_occurrence import POPULARITY_POWER, RECENCY_POWER, SOURCE_POWER, CoOccurrence
from pinrec_core.baselines.recommender import top
from tests.pinrec_core.evaluation.builders import case_of, catalogue_of, history_of

LOG = [[0, 1, 2], [0, 1], [0, 3, 3]]


@pytest.fixture
def catalogue(tmp_path):
    return catalogue_of(tmp_path, 6)


def histories(log: list[list[int]]):
    return (history_of(keys) for keys in log)


def test_similarities_by_hand(catalogue):
    """Within one position: 0–1 twice, 1–2 and 0–3 once (3 follows itself: no pair)."""
    fitted = CoOccurrence.fit(histories(LOG), catalogue, window=1)
    popularity = np.array([3, 2, 1, 2, 0, 0])
    damping = (np.maximum(popularity, 1) / popularity.mean()) ** -POPULARITY_POWER
    neighbour, similarity = fitted.similar(0)
    assert neighbour.tolist() == [1, 3]
    assert similarity == pytest.approx([2 / 3**SOURCE_POWER * damping[1], 1 / 3**SOURCE_POWER * damping[3]])
    assert fitted.similar(2)[0].tolist() == [1]
    assert fitted.similar(5)[0].tolist() == []


def test_scores_add_up_over_the_recent_items_with_the_user_s_own_among_them(catalogue):
    fitted = CoOccurrence.fit(histories(LOG), catalogue, window=1)
    returns = 1 / 8  # one of eight interactions comes back to its item
    score = fitted.scores([case_of([2, 0], [1]).request()])[0]
    of_0, of_2 = (dict(zip(*(values.tolist() for values in fitted.similar(row)), strict=True)) for row in (0, 2))
    earlier = 2**-RECENCY_POWER
    expected = [returns, of_0[1] + earlier * of_2[1], earlier * returns, of_0[3], 0, 0]
    assert score == pytest.approx(expected, abs=2e-6)  # the tie-break is at most a millionth
    assert top(fitted, [case_of([], [1]).request()], 4)[0].tolist() == [0, 1, 3, 2]  # without a history: popularity


@pytest.mark.parametrize("window", [1, 3, 10])
def test_counts_against_a_plain_loop(catalogue, window, monkeypatch):
    random = np.random.default_rng(window)
    log = [random.integers(0, 6, random.integers(1, 12)).tolist() for _ in range(40)]
    expected: Counter[tuple[int, int]] = Counter()
    for keys in log:
        for i, a in enumerate(keys):
            for b in keys[i + 1 : i + 1 + window]:
                if a != b:
                    expected[a, b] += 1
                    expected[b, a] += 1
    popularity = np.bincount(np.concatenate(log), minlength=6)
    monkeypatch.setattr(co_occurrence, "_INTERACTIONS_AT_ONCE", 7)  # chunks must not lose or join users
    fitted = CoOccurrence.fit(histories(log), catalogue, window=window)
    for a in range(6):
        total = sum(count for (i, _), count in expected.items() if i == a)
        for b, similarity in zip(*fitted.similar(a), strict=True):
            damping = (popularity[b] / popularity.mean()) ** -POPULARITY_POWER
            assert similarity == pytest.approx(expected[a, b] / total**SOURCE_POWER * damping)
        assert len(fitted.similar(a)[0]) == sum(i == a for i, _ in expected)
        assert (np.diff(fitted.similar(a)[1]) <= 0).all()


def test_only_the_nearest_are_kept(catalogue):
    full = CoOccurrence.fit(histories(LOG), catalogue)
    cut = CoOccurrence.fit(histories(LOG), catalogue, neighbours=1)
    for row in range(4):
        assert cut.similar(row)[0].tolist() == full.similar(row)[0][:1].tolist()


def test_an_empty_log_leaves_ties(catalogue):
    fitted = CoOccurrence.fit([], catalogue)
    assert not fitted.scores([case_of([1], [2]).request()]).any()
