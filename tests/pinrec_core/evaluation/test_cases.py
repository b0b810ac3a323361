"""Who is judged on what, against the log read plainly."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import SEQUENCES
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.dataset.splits import is_evaluation_user, training_histories
from pinrec_core.errors import ConfigError
from pinrec_core.evaluation.cases import EvaluationCase, held_out_cases, leave_one_out_cases
from pinrec_core.history import History
from tests.pinrec_core.conftest import EVALUATION_SHARE

Z = 4
cold_cases = partial(held_out_cases, cold=True)


@pytest.fixture(scope="module")
def log(dataset) -> dict[int, History]:
    return {user: history.take(np.arange(len(history))) for user, history in iter_histories(dataset / SEQUENCES)}


@pytest.fixture(scope="module")
def catalogue(dataset) -> ItemCatalogue:
    return ItemCatalogue.open(dataset)


def occurrences(history: History, key: int) -> list[int]:
    return [t for t, other in enumerate(history.item_key.tolist()) if other == key]


def check_targets(case: EvaluationCase, history: History, positions: list[int], catalogue: ItemCatalogue) -> None:
    assert catalogue.item_key[case.target_row].tolist() == history.item_key[positions].tolist()
    assert case.target_outcome.tolist() == history.outcome[positions].tolist()
    assert case.target_surface.tolist() == history.surface[positions].tolist()
    assert (case.request_surface, case.request_time) == (history.surface[positions[0]], history.timestamp[positions[0]])


def test_held_out_targets_are_the_last_distinct_items(dataset, log, catalogue):
    cases = list(held_out_cases(dataset, catalogue, share=EVALUATION_SHARE, targets=Z))
    assert len(cases) > 20
    for case in cases:
        history = log[case.user_id]
        assert is_evaluation_user(case.user_id, EVALUATION_SHARE)
        positions = sorted(max(occurrences(history, key)) for key in set(history.item_key.tolist()))[-Z:]
        check_targets(case, history, positions, catalogue)
        assert case.history.item_key.tolist() == history.item_key[: positions[0]].tolist()
        assert catalogue.item_key[case.seen_row].tolist() == sorted(set(case.history.item_key.tolist()))


def test_an_earlier_case_is_the_latest_one_of_a_user_whose_later_targets_never_happened(dataset, log, catalogue):
    latest = {c.user_id: c for c in held_out_cases(dataset, catalogue, share=EVALUATION_SHARE, targets=Z)}
    earlier = list(held_out_cases(dataset, catalogue, share=EVALUATION_SHARE, targets=Z, earlier=1))
    assert len(earlier) > 20
    for case in earlier:
        before = log[case.user_id].take(slice(0, len(latest[case.user_id].history)))
        positions = sorted(max(occurrences(before, key)) for key in set(before.item_key.tolist()))[-Z:]
        check_targets(case, before, positions, catalogue)
        assert case.history.item_key.tolist() == before.item_key[: positions[0]].tolist()
    assert not list(held_out_cases(dataset, catalogue, share=EVALUATION_SHARE, targets=Z, earlier=100))


def test_cold_targets_are_the_first_distinct_items_and_nothing_comes_before_them(dataset, log, catalogue):
    cases = list(cold_cases(dataset, catalogue, share=EVALUATION_SHARE, targets=Z))
    assert len(cases) > 20
    for case in cases:
        history = log[case.user_id]
        positions = sorted(min(occurrences(history, key)) for key in set(history.item_key.tolist()))[:Z]
        check_targets(case, history, positions, catalogue)
        assert positions[0] == 0
        assert len(case.history) == len(case.seen_row) == 0


@pytest.mark.parametrize("from_end", [1, 2])
def test_leave_one_out_takes_every_user_and_cuts_before_the_target(dataset, log, catalogue, from_end):
    cases = list(leave_one_out_cases(dataset, catalogue, from_end=from_end))
    assert [case.user_id for case in cases] == list(log)
    for case in cases:
        history = log[case.user_id]
        check_targets(case, history, [len(history) - from_end], catalogue)
        assert len(case.history) == len(history) - from_end


def test_training_histories_are_those_of_the_others_without_their_end(dataset, log):
    kept = [len(h) for h in training_histories(dataset, share=EVALUATION_SHARE, held_out_last=2)]
    assert kept == [len(h) - 2 for user, h in log.items() if not is_evaluation_user(user, EVALUATION_SHARE)]


def test_a_long_history_keeps_its_end_and_remembers_all_that_was_seen(dataset, log, catalogue, monkeypatch):
    monkeypatch.setattr("pinrec_core.evaluation.cases.LONGEST_HISTORY", 5)
    for case in leave_one_out_cases(dataset, catalogue, max_users=5):
        before = log[case.user_id].item_key[:-1]
        assert case.history.item_key.tolist() == before[-5:].tolist()
        assert len(case.seen_row) == len(np.unique(before))


@pytest.mark.parametrize("make", [held_out_cases, cold_cases])
def test_users_for_validation_are_not_judged(dataset, catalogue, make):
    judged, validation = (
        {case.user_id for case in make(dataset, catalogue, share=EVALUATION_SHARE, targets=Z, validation=validation)}
        for validation in (False, True)
    )
    assert len(judged) > len(validation) > 0
    assert not judged & validation


@pytest.mark.parametrize("make", [held_out_cases, cold_cases])
def test_a_sample_of_users_is_taken_from_the_whole_file(dataset, catalogue, make):
    def users(most: int | None) -> list[int]:
        return [case.user_id for case in make(dataset, catalogue, share=EVALUATION_SHARE, targets=Z, max_users=most)]

    everybody = users(None)
    n = len(everybody) // 2
    sample = users(n)
    assert len(sample) == n
    assert set(sample) < set(everybody)
    assert set(sample) != set(everybody[:n])  # a file may be sorted by user, and early users are not like late ones
    assert sample[:3] == users(3)  # a smaller sample is part of a larger one


def test_a_draw_does_not_depend_on_who_else_is_judged(dataset, catalogue):
    few = list(held_out_cases(dataset, catalogue, share=EVALUATION_SHARE, targets=Z, max_users=3))
    many = list(held_out_cases(dataset, catalogue, share=EVALUATION_SHARE, targets=Z))
    seeds = {case.user_id: case.request().seed for case in many}
    assert [case.request().seed for case in few] == [seeds[case.user_id] for case in few]
    assert len(set(seeds.values())) == len(many)


@pytest.mark.parametrize("make", [held_out_cases, cold_cases])
@pytest.mark.parametrize(("field", "value"), [("targets", 0), ("max_users", -1)])
def test_numbers_below_one_are_refused(dataset, catalogue, make, field, value):
    numbers = {"targets": 4, "max_users": 10} | {field: value}
    with pytest.raises(ConfigError, match=f"{field}={value}: expected a value above 0"):
        make(dataset, catalogue, share=EVALUATION_SHARE, **numbers)
