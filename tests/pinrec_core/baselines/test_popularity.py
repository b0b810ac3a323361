"""Popularity by hand."""

from __future__ import annotations

import numpy as np

from pinrec_core.baselines.popularity import Popularity, PopularityBySurface
from pinrec_core.baselines.recommender import top
from pinrec_core.history import NO_OUTCOME
from tests.pinrec_core.evaluation.builders import case_of, catalogue_of, history_of


def test_popularity_counts_interactions_with_an_outcome(tmp_path):
    queries = history_of([4, 4, 4], outcome=NO_OUTCOME)
    fitted = Popularity.fit([history_of([0, 1, 1]), history_of([1, 99]), queries], catalogue_of(tmp_path, 5))
    assert fitted.count.tolist() == [1, 3, 0, 0, 0]  # 99 is not in the catalogue
    assert top(fitted, [case_of([], [0]).request()], 3).tolist() == [[1, 0, 2]]


def test_popularity_by_surface_breaks_ties_by_popularity_overall(tmp_path):
    log = [
        history_of([0, 0, 1, 2], surface=1),
        history_of([2, 2, 3, 3, 3, 3], surface=2),
        history_of([4], surface=3),
    ]
    fitted = PopularityBySurface.fit(iter(log), catalogue_of(tmp_path, 6))
    requests = [case_of([], [0], surface=surface).request() for surface in (1, 2, 0)]
    assert top(fitted, requests, 6).tolist() == [
        [0, 2, 1, 3, 4, 5],  # 2 and 1 once here, 2 more often overall; then 3, 4 by overall
        [3, 2, 0, 1, 4, 5],
        [3, 2, 0, 1, 4, 5],  # nobody acted on surface 0: overall, equal ones by row
    ]
    score = fitted.scores(requests)[2]
    assert score[1] == score[4]  # equal in both criteria is a tie, which the classic protocol shares out
    assert len(np.unique(score)) == 5
