"""Samples of users, items and events of a dataset."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import pytest
from pinrec_client import RecommendRequest

from load_tests.workload import Draw, Workload
from pinrec_core.errors import DataError
from tests.load_tests.conftest import NUM_ITEMS, NUM_USERS, WriteDataset


def test_a_uniform_draw_has_every_user_and_no_event(write_dataset: WriteDataset):
    workload = Workload.load(write_dataset())
    assert workload.num_items == NUM_ITEMS
    assert len(set(workload.user_ids)) == NUM_USERS
    assert (workload.visits, workload.search_share) == ([], 0)


def test_the_events_of_the_log_become_visits(write_dataset: WriteDataset):
    workload = Workload.load(write_dataset(), Draw.LOG)
    assert (len(workload.visits), len(workload.searchers)) == (120, 30)
    assert {(visit.action, visit.surface) for visit in workload.visits} == {("save", "search")}
    # Event n of a file is on item n, unless it is a search.
    assert {visit.item_id for visit in workload.visits} <= set(range(100))


def test_budgets_differ_and_are_valid(write_dataset: WriteDataset):
    workload = Workload.load(write_dataset())
    random = Random(0)
    budgets = [workload.budget(random) for _ in range(10)]
    assert len({tuple(b.values()) for b in budgets}) == 10
    for budget in budgets:
        RecommendRequest(user_id=1, budget=budget)


def test_a_folder_that_is_no_dataset(tmp_path: Path):
    with pytest.raises(DataError, match="pinrec prepare"):
        Workload.load(tmp_path)


def test_a_dataset_without_its_events_has_no_log_to_draw_from(write_dataset: WriteDataset):
    folder = write_dataset()
    (folder / "signals").mkdir()
    shutil.move(folder / "events", folder / "signals" / "sequences")  # has the users, which a uniform draw reads
    assert Workload.load(folder).user_ids
    with pytest.raises(DataError, match="`--mix log` draws"):
        Workload.load(folder, Draw.LOG)
