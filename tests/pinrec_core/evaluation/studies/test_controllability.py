"""The matrix by hand, and all budget on one outcome with a trained model."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pinrec_core.errors import ConfigError
from pinrec_core.evaluation.studies.controllability import controllability_matrix, hits_by_desired_outcome
from pinrec_core.evaluation.unordered_recall import recalled
from pinrec_core.retrieval.exact_search import exact_top_k

TRUE = np.array([[0, 1], [0, 0], [1, 1]])  # outcomes of three users' two targets
LIKE = np.array([[1, 0], [1, 1], [0, 0]], bool)  # with all budget on outcome 0: every like is found
SKIP = np.array([[0, 1], [0, 1], [1, 0]], bool)  # on outcome 1
REFERENCE = np.array([[1, 0], [0, 1], [1, 1]], bool)


def test_the_matrix_by_hand():
    matrix = controllability_matrix(np.stack([LIKE, SKIP]), REFERENCE, TRUE, ("like", "skip"))
    assert matrix.targets.tolist() == [3, 3]
    assert [[cell.value for cell in row] for row in matrix.recall] == [
        pytest.approx([3 / 3, 1 / 3]),
        pytest.approx([0 / 3, 2 / 3]),
    ]
    assert [cell.value for cell in matrix.reference] == pytest.approx([2 / 3, 2 / 3])
    assert [[cell.value for cell in row] for row in matrix.ratio] == [pytest.approx([1.5, 0.5]), pytest.approx([0, 1])]
    plain = matrix.to_dict()
    assert plain["like"]["ratio"]["skip"]["value"] == pytest.approx(0.5)
    assert plain["skip"]["targets"] == 3


def test_an_outcome_without_targets_is_unknown_and_not_zero():
    matrix = controllability_matrix(np.stack([LIKE, SKIP]), REFERENCE, np.zeros((3, 2), int), ("like", "skip"))
    assert math.isnan(matrix.recall[1][0].value)
    assert matrix.to_dict()["skip"]["ratio"]["like"]["value"] is None


def test_seeds_may_be_averaged_before():
    hits = np.stack([np.stack([LIKE, SKIP]), np.stack([SKIP, SKIP])]).mean(axis=0)
    matrix = controllability_matrix(hits, REFERENCE.astype(float), TRUE, ("like", "skip"))
    assert matrix.recall[0][0].value == pytest.approx((3 + 1) / 2 / 3)


def test_shapes_that_do_not_agree_are_refused():
    with pytest.raises(ConfigError, match="expected 2 of them"):
        controllability_matrix(np.stack([LIKE, SKIP]), REFERENCE, TRUE, ("like",))
    with pytest.raises(ConfigError, match=r"reference=.*expected the shape"):
        controllability_matrix(np.stack([LIKE, SKIP]), REFERENCE[:2], TRUE, ("like", "skip"))


def test_only_the_desired_outcomes_embeddings_look_items_up(subject, cases):
    indexed = subject.indexed
    O = len(indexed.dataset.outcomes)
    hits = hits_by_desired_outcome(subject, cases, k=5, batch=16)
    assert hits.shape == (O, len(cases), 4)
    desired = 1
    requests = [case.request(np.eye(O)[desired]) for case in cases[:16]]
    embedding = indexed.generate(requests)[:, desired].numpy()
    expected = [
        recalled(case.target_row[None], exact_top_k(vectors, subject.indexed.index.blocks(), 5).reshape(1, -1))[0]
        for case, vectors in zip(cases, embedding, strict=False)
    ]
    np.testing.assert_array_equal(hits[desired][:16], expected)
