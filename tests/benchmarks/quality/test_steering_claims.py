"""The claims about outcomes and budgets, on figures that are set by hand."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from benchmarks.quality import claims
from benchmarks.quality.goals import AnyClaim, Claim
from benchmarks.quality.results import StudyResult
from benchmarks.quality.steering_claims import LEAST_TARGETS, OUTCOME_LOGS


@pytest.fixture
def found(result) -> dict[str, AnyClaim]:
    return {claim.claim: claim for claim in claims.claims_of("yelp", result.outcomes)}


def own(found: dict[str, AnyClaim], outcome: str) -> Claim:
    claim = found[f"OC with all budget on {outcome}, over UC"]
    assert isinstance(claim, Claim)
    return claim


def set_ratio(result: StudyResult, claim: Claim, ratio: float, **values: Any) -> None:
    stored = result.comparison(claim.of, claim.against)
    assert stored is not None
    stored.update(
        {"value": 0.2 * ratio, "baseline_value": 0.2, "ratio": ratio, "ci95": None, "by_seed": [0.2 * ratio],
         "baseline_by_seed": [0.2], "seeds": 1, "baseline_seeds": 1, "targets": LEAST_TARGETS} | values
    )  # fmt: skip


def test_an_outcome_has_a_goal_where_it_has_enough_targets(result, found):
    claim = own(found, result.outcomes[0])
    for targets, ratio, reached in (
        (LEAST_TARGETS, 1.0, True), (LEAST_TARGETS, 0.999, False), (LEAST_TARGETS - 1, 0.999, None),
    ):  # fmt: skip
        set_ratio(result, claim, ratio, targets=targets)
        row = claim.row(result)
        assert (row["reached"], row["goal"]) == (reached, None if reached is None else ">= 1x")
        assert row["targets"] == targets


def test_that_others_fall_counts_only_where_the_own_outcome_is_lifted(result, found):
    """A model that is worse all round lowers every outcome and steers nothing."""
    outcome = result.outcomes[0]
    lifts, lowers = own(found, outcome), found[f"all budget on {outcome} lowers the others"]
    set_ratio(result, lowers, 0.9)
    for ratio, reached in ((1.1, True), (0.95, False)):
        set_ratio(result, lifts, ratio)
        assert lowers.row(result)["reached"] is reached
    set_ratio(result, lifts, 1.1, targets=LEAST_TARGETS - 1)  # nobody can say whether it is lifted
    assert (lowers.row(result)["goal"], lowers.row(result)["reached"]) == (None, None)


def test_more_than_half_of_the_outcomes_with_enough_targets_are_to_be_lifted(result, found):
    claim = found["OC with all budget on one outcome, over UC: outcomes with >= 1.02x"]
    first, second, third = (own(found, outcome) for outcome in result.outcomes)
    for single in (first, second, third):
        set_ratio(result, single, 1.5, targets=LEAST_TARGETS - 1)
    assert claim.row(result) is None
    set_ratio(result, first, 1.02)
    set_ratio(result, second, 1.019)
    row = claim.row(result)
    assert (row["value"], row["reached"], row["targets"]) == (0.5, False, 2 * LEAST_TARGETS)  # not more than half
    seeds = {"seeds": 2, "baseline_seeds": 2, "by_seed": [0.21, 0.2], "baseline_by_seed": [0.2, 0.2]}
    set_ratio(result, third, 1.025, **seeds)
    for single in (first, second):
        set_ratio(result, single, 1.02 if single is first else 1.019, **seeds)
    row = claim.row(result)
    assert row["value"] == pytest.approx(2 / 3)
    assert (row["by_seed"], row["seeds"], row["reached"]) == ([1.0, 0.0], 2, True)
    assert (row["baseline_value"], row["ratio"], row["ci95"], row["certain"]) == (None, None, None, None)


DISTANCE = "the share that own embeddings deliver is the budget"
RISES = "the share that own embeddings deliver rises with the budget"


def with_sweeps(result: StudyResult, *sweeps: list[tuple[float, float, float]]) -> StudyResult:
    """The figures with one seed per sweep, of budgets with what both outcomes' embeddings delivered."""
    plain = deepcopy(result.plain)
    seeds = plain["runs"]["mt_oc"]["seeds"]
    template = seeds["0"]
    for number, points in enumerate(sweeps):
        seeds[str(number)] = deepcopy(template)
        seeds[str(number)]["evaluations"]["budget"]["points"] = [
            {"share": share, "own_mix": {"click": start, "hide": end}} for share, start, end in points
        ]
    return StudyResult(plain)


def test_the_distance_to_the_budget_is_the_largest_of_all_arms_seeds_and_both_outcomes(result, found):
    fine = [(0.0, 1.0, 0.0), (0.5, 0.49, 0.51), (1.0, 0.0, 1.0)]
    row = found[DISTANCE].row(with_sweeps(result, fine, fine))
    assert (row["value"], row["reached"], row["seeds"]) == (pytest.approx(0.01), True, 2)
    short = [(0.0, 0.97, 0.0), (0.5, 0.5, 0.5), (1.0, 0.0, 1.0)]  # a third outcome's embeddings brought the rest
    row = found[DISTANCE].row(with_sweeps(result, fine, short))
    assert (row["value"], row["reached"], row["goal"]) == (pytest.approx(0.03), False, "<= 0.02")
    assert row["by_seed"] == pytest.approx([0.01, 0.03])


def test_a_share_that_stays_or_falls_in_one_seed_does_not_rise_with_the_budget(result, found):
    rising = [(0.0, 1.0, 0.0), (0.5, 0.5, 0.5), (1.0, 0.0, 1.0)]
    row = found[RISES].row(with_sweeps(result, rising))
    assert (row["value"], row["reached"], row["goal"]) == (0.5, True, "> 0")
    for middle, smallest in ((0.0, 0.0), (1.25, -0.25)):
        row = found[RISES].row(with_sweeps(result, rising, [(0.0, 1.0, 0.0), (0.5, 0.5, middle), (1.0, 0.0, 1.0)]))
        assert (row["value"], row["reached"]) == (smallest, False)


def test_the_small_study_delivers_its_budgets(result, found):
    assert found[DISTANCE].row(result)["value"] == pytest.approx(0)
    assert found[RISES].row(result)["value"] == pytest.approx(0.5)


def test_figures_without_a_count_by_own_embeddings_reach_no_goal(result, found):
    for point in result.runs["mt_oc"]["seeds"]["0"]["evaluations"]["budget"]["points"]:
        point["served_mix"] = point.pop("own_mix")
    assert [found[claim].row(result) for claim in (DISTANCE, RISES)] == [None, None]


def test_no_multi_token_goal_over_one_token_where_times_are_days(result):
    pair = result.comparison(*next(p for p in claims.pairs_of("yelp", []) if (p[0].run, p[1].run) == ("mt_oc", "uc")))
    by_name = {claim.claim: claim for claim in claims.claims_of("yelp", result.outcomes)}
    plain = deepcopy(result.plain)
    key = "mt_oc:held_out:hit / oc:held_out:hit"
    plain["comparisons"][key] = pair | {"ratio": 1.06, "value": 0.106, "baseline_value": 0.1}
    for times, goal, reached in (("seconds", ">= 1.05x", True), ("days", None, None), (None, ">= 1.05x", True)):
        plain["dataset"]["times"] = times
        if times is None:  # as in older files
            del plain["dataset"]["times"]
        row = by_name["{MT,OC} over OC at equal embeddings"].row(StudyResult(plain))
        assert (row["goal"], row["reached"]) == (goal, reached)
        row = by_name["{MT,OC} over UC at equal embeddings"].row(StudyResult(plain))
        assert row["goal"] == ">= 1.11x"


def test_every_log_with_outcomes_is_asked_for_its_budgets_and_for_what_uc_serves():
    for study in OUTCOME_LOGS:
        names = {claim.claim for claim in claims.claims_of(study, ["click"])}
        assert {DISTANCE, RISES, "{MT,OC} served, against the 100 items of UC"} <= names
