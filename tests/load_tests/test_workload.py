"""The requests of the mix are made from the users, items, outcomes and surfaces of the dataset."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from pinrec_client import Event, RecommendRequest

from load_tests.workload import MIX, Workload, mix_for
from pinrec_core.errors import DataError
from pinrec_core.ids import IdKind
from tests.load_tests.conftest import NUM_ITEMS, NUM_USERS, WriteDataset


@pytest.mark.parametrize("kind", list(IdKind))
def test_every_request_of_the_mix_can_be_made(write_dataset: WriteDataset, kind: IdKind):
    workload = Workload.load(write_dataset(kind))
    assert workload.num_items == NUM_ITEMS
    assert len(set(workload.user_ids)) == NUM_USERS
    random = Random(0)
    for request_type in mix_for(workload, writes=True):
        for _ in range(20):
            request = request_type.make(workload, random)
            assert isinstance(request.user_id, str if kind is IdKind.STRING else int)
            known = request.user_id in workload.user_ids
            assert known == (request_type.name != "cold user")
            if isinstance(request, Event):
                assert request.item_id in workload.item_ids
                assert request.action in workload.outcomes


def test_the_mix_leaves_out_what_the_dataset_lacks(write_dataset: WriteDataset):
    workload = Workload.load(write_dataset(surfaces=("",), title=""))
    names = {t.name for t in mix_for(workload, writes=False)}
    assert {t.name for t in MIX} - names == {"surface", "search", "log event"}


def test_equal_seeds_make_equal_requests(write_dataset: WriteDataset):
    workload = Workload.load(write_dataset())

    def users(seed: int) -> list[int | str]:
        random = Random(seed)
        return [t.make(workload, random).user_id for t in mix_for(workload, writes=False)]

    assert users(1) == users(1)
    assert users(1) != users(2)


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
