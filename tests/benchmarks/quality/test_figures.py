"""From the results of single runs to figures with intervals."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality import claims
from benchmarks.quality.measures import Measure, comparison, figure
from pinrec_core.errors import DataError
from pinrec_core.evaluation.result import EQUAL_DISTINCT_ITEMS, EvaluationResult


def test_figures_pool_the_seeds_and_name_no_folder(place, result):
    found = result.figure(Measure(run="uc", evaluation="held_out", name="hit"))
    by_seed = [seed["unordered_recall"] for seed in result.seeds("uc", "held_out")]
    assert found["value"] == pytest.approx(np.mean(by_seed), rel=1e-5)  # six digits are kept
    assert found["seeds"] == 2
    assert str(place) not in (place / "figures" / "yelp.json").read_text("utf-8")
    pairs = {f"{of.run} {of.evaluation} {other.run}": (of, other) for of, other in claims.pairs_of("yelp", ["click"])}
    assert result.comparison(*pairs["oc controllability uc"])["seeds"] == 1
    assert result.comparison(*pairs["uc held_out_offline pinnerformer"]) is not None
    assert set(result.plain["controllability"]) == {"oc"}


def result_of(seed_arrays: dict[str, list], users: list[int] | None = None) -> EvaluationResult:
    arrays = {name: np.array(values) for name, values in seed_arrays.items()}
    return EvaluationResult(
        subject="s", protocol="held-out", metrics={"latency": {"median_ms": 4.0}}, arrays=arrays,
        user_id=users or list(range(len(next(iter(arrays.values()))))),
    )  # fmt: skip


def test_comparisons_by_hand():
    a, b = (Measure(run=run, evaluation="held_out", name="hit") for run in "ab")
    seeds = {0: result_of({"hit": [[1, 1], [1, 0]]}), 1: result_of({"hit": [[1, 0], [0, 0]]})}
    baseline = {0: result_of({"hit": [[0, 1], [0, 1]]})}
    found = comparison(a, b, seeds, baseline)
    assert (found["value"], found["baseline_value"], found["ratio"], found["seeds"]) == (0.5, 0.5, 1.0, 2)
    assert found["ci95"] == [0.5, 1.5]  # a single user has the ratio .75/.5 or .25/.5
    assert figure(a, seeds)["by_seed"] == [0.75, 0.25]
    assert found["targets"] == 4
    with pytest.raises(DataError, match="judged on 2 users: expected the 2 of s, in the same order"):
        comparison(a, b, seeds, {0: result_of({"hit": [[0, 1], [0, 1]]}, users=[5, 6])})


def test_a_share_with_its_own_number_of_trials():
    share = Measure(run="a", evaluation="controllability", name="own", per="trials")
    found = figure(share, {0: result_of({"own": [2, 0], "trials": [3, 1]})})
    assert (found["value"], found["targets"]) == (0.5, 4)


def test_a_metric_that_is_no_mean_over_users_has_no_interval():
    of, against = (Measure(run=run, evaluation="steps-1", name="latency.median_ms") for run in "ab")
    found = comparison(of, against, {0: result_of({"hit": [1]})}, {0: result_of({"hit": [1]})})
    assert (found["ratio"], found["ci95"]) == (1.0, None)
    with pytest.raises(DataError, match=r"latency\.p50"):
        figure(Measure(run="a", evaluation="steps-1", name="latency.p50"), {0: result_of({"hit": [1]})})


def test_a_list_is_cut_to_as_many_distinct_items():
    of = Measure(run="a", evaluation="held_out", name="hit")
    against = Measure(run="b", evaluation="held_out", name=EQUAL_DISTINCT_ITEMS)
    first = {0: result_of({"hit": [[1, 1], [1, 0]], "distinct_items": [20, 10]})}
    one_list = {0: result_of({"list_rank": [[19, 20], [9, 10]]})}
    assert comparison(of, against, first, one_list)["baseline_value"] == 0.5
