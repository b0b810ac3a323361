"""Leave one out by hand: ranks with ties, seen items removed, HR and NDCG."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pinrec_core.baselines.popularity import Popularity
from pinrec_core.errors import DataError
from pinrec_core.evaluation.classic import evaluate_leave_one_out, rank
from pinrec_core.evaluation.subjects import ListSubject
from tests.pinrec_core.evaluation.builders import case_of, catalogue_of

NONE = np.empty(0, np.int64)


@pytest.mark.parametrize(
    ("target", "seen", "expected"),
    [
        (3, [], 0.0),  # 9 is the best score
        (0, [], 1 + 0.5),  # 5: one better, one equal
        (1, [], 1 + 0.5),
        (0, [1], 1.0),  # the equal one was seen
        (0, [3, 1], 0.0),
        (4, [], 4 - 0.5),  # 0: three better, one equal
        (3, [3], 0.0),  # a target seen before stays
    ],
)
def test_rank_counts_the_better_and_half_of_the_equal(target, seen, expected):
    score = np.array([5, 5, 0, 9, 0], np.float32)
    assert rank(score, target, np.array(seen, np.int64)) == expected


def test_rank_of_a_constant_score_is_the_middle():
    assert rank(np.zeros(101), 7, NONE) == 50.0


def test_hit_rate_and_ndcg_by_hand(tmp_path):
    subject = ListSubject(Popularity(np.array([50, 40, 30, 20, 10])), catalogue_of(tmp_path, 5))
    cases = [
        case_of([0], [1], user=1),  # 0 is removed: rank 0
        case_of([1], [2], user=2),  # 0 is better: rank 1
        case_of([1], [4], user=3),  # three are better: rank 3, beyond the cut-off
    ]
    result = evaluate_leave_one_out(subject, iter(cases), k=2, batch=2)
    assert result.arrays["rank"].tolist() == [0, 1, 3]
    assert result.arrays["hit"].tolist() == [1, 1, 0]
    assert result.metrics["hit_rate"] == pytest.approx(2 / 3)
    assert result.metrics["ndcg"] == pytest.approx((1 + 1 / math.log2(3)) / 3)
    assert result.user_id == [1, 2, 3]


def test_a_model_ranks_by_the_outcomes_mixture(subject, cases):
    indexed = subject.indexed
    embedding = indexed.generate([case.request(subject.budget) for case in cases]).numpy()
    W = len(indexed.generation.offsets)
    first = embedding[:, :, :W][:, :, indexed.generation.offsets.index(1)]  # the first step, δ = 1
    score = subject.scores(cases)
    items = indexed.index.vectors_of(np.arange(len(indexed.index)))
    for b in range(3):
        expected = sum(
            share * (items @ first[b, outcome]) for outcome, share in enumerate(indexed.dataset.outcome_share)
        )
        np.testing.assert_allclose(score[b], expected, atol=1e-5)  # float32 sums in another order


def test_no_case_is_a_clear_error(subject):
    with pytest.raises(DataError, match="no case: expected at least one user to judge"):
        evaluate_leave_one_out(subject, [])
