"""The held-out figures of lists by hand, how subjects are paired, and that results read back as written."""

from __future__ import annotations

import numpy as np
import pytest

from pinrec_core.baselines.popularity import Popularity
from pinrec_core.baselines.recommender import top
from pinrec_core.errors import ConfigError, DataError
from pinrec_core.evaluation.held_out import evaluate
from pinrec_core.evaluation.result import EvaluationResult, compare, compare_at_equal_distinct_items
from pinrec_core.evaluation.subjects import ListSubject
from tests.pinrec_core.evaluation.builders import case_of, catalogue_of

CASES = [case_of([0], [1, 4], user=1, outcomes=[0, 1]), case_of([5], [0, 3], user=2, outcomes=[0, 0])]


@pytest.fixture
def popular(tmp_path) -> ListSubject:
    return ListSubject(Popularity(np.array([60, 50, 40, 30, 20, 10])), catalogue_of(tmp_path, 6))


def judged(subject: ListSubject, **options: object) -> EvaluationResult:
    return evaluate(subject, CASES, outcomes=("like", "skip"), surfaces=("",), **options)  # type: ignore[arg-type]


def test_one_list_by_hand(popular):
    result = judged(popular, k=2, equal_embeddings=2, num_items=1)
    assert result.arrays["hit"].tolist() == [[True, False], [True, False]]  # the list is 0, 1
    assert result.arrays["hit_equal_items"].tolist() == [[True, False], [True, True]]  # 0, 1, 2, 3
    assert result.arrays["served_hit"].tolist() == [[False, False], [True, False]]  # 0
    assert result.arrays["list_rank"].tolist() == [[1, 4], [0, 3]]  # 4: not among the four
    metrics = result.metrics
    assert (metrics["unordered_recall"], metrics["unordered_recall_equal_items"], metrics["served_recall"]) == (
        0.5, 0.75, 0.25,
    )  # fmt: skip
    assert metrics["diversity"] == 2 / 4
    assert metrics["catalogue_coverage"] == pytest.approx(2 / 6)
    assert metrics["by_outcome"]["skip"] == {
        "targets": 1, "unordered_recall": 0, "unordered_recall_equal_items": 0, "served_recall": 0,
    }  # fmt: skip


def test_seen_items_can_be_kept_out_of_the_served_ones(popular):
    assert judged(popular, num_items=1, exclude_seen=True).arrays["served_hit"].tolist() == [
        [True, False],  # 0 was seen: 1 is served
        [True, False],
    ]


def test_ties_go_to_the_earlier_row_and_seen_items_come_last():
    recommender = Popularity(np.array([1, 2, 2, 0, 2]))
    case = case_of([1], [0])
    for n in range(1, 6):
        assert top(recommender, [case.request()], n)[0].tolist() == [1, 2, 4, 0, 3][:n]
        assert top(recommender, [case.request(exclude_seen=True)], n)[0].tolist() == [2, 4, 0, 3, 1][:n]


def test_a_result_reads_back_as_it_was_written(popular, tmp_path):
    result = judged(popular)
    result.save(tmp_path / "result")
    loaded = EvaluationResult.load(tmp_path / "result")
    assert (loaded.subject, loaded.protocol, loaded.metrics, loaded.user_id) == (
        result.subject, result.protocol, result.metrics, result.user_id,
    )  # fmt: skip
    assert set(loaded.arrays) == set(result.arrays)
    for name, values in result.arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], values)
        assert loaded.arrays[name].dtype == values.dtype
    with pytest.raises(DataError, match=r"metrics\.json: expected the metrics of an evaluation"):
        EvaluationResult.load(tmp_path / "nowhere")
    (tmp_path / "result" / "users.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"users\.parquet: expected the users of an evaluation"):
        EvaluationResult.load(tmp_path / "result")
    (tmp_path / "result" / "metrics.json").write_text('{"subject": "s", "protocol": 1, "metrics": {}}')
    with pytest.raises(DataError, match=r"metrics\.json: protocol=1: expected a text"):
        EvaluationResult.load(tmp_path / "result")


def test_subjects_are_paired_by_user(popular):
    small, large = judged(popular, k=2), judged(popular, k=4)
    ratio = compare([large], [small], "hit")
    assert ratio.value == pytest.approx(0.75 / 0.5)
    assert compare([large, small], [small], "hit").value == pytest.approx((0.75 + 0.5) / 2 / 0.5)  # two seeds
    fewer = evaluate(popular, CASES[:1], outcomes=("like", "skip"), surfaces=("",))
    with pytest.raises(DataError, match="judged on 1 users: expected the 2"):
        compare([large], [fewer], "hit")


def test_a_list_is_cut_to_the_distinct_items_of_the_other(popular):
    """Both users' lists of the other subject hold three distinct items: 0, 1 and 2 of the one list."""
    first, one_list = judged(popular, k=4), judged(popular, k=2, equal_embeddings=3)
    first.arrays["distinct_items"][:] = 3
    ratio = compare_at_equal_distinct_items(first, one_list)
    assert ratio.value == pytest.approx(first.arrays["hit"].mean() / 0.5)
    del one_list.arrays["list_rank"]
    with pytest.raises(DataError, match="expected a subject of one list"):
        compare_at_equal_distinct_items(first, one_list)


def test_numbers_below_one_and_no_case_are_refused(popular):
    for name in ("k", "num_items", "equal_embeddings"):
        with pytest.raises(ConfigError, match=f"{name}=0: expected a value above 0"):
            judged(popular, **{name: 0})
    with pytest.raises(DataError, match="no case: expected at least one user to judge"):
        evaluate(popular, [], outcomes=("like",), surfaces=("",))
