"""The mix: its files, its request types, and what a dataset leaves of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest
from pinrec_client import Event

from load_tests.mix import BUILT_IN, REQUEST_TYPES, SEARCH, Mix
from load_tests.workload import Draw, Workload
from pinrec_core.errors import ConfigError
from pinrec_core.ids import IdKind
from tests.load_tests.conftest import WriteDataset


@pytest.mark.parametrize("kind", list(IdKind))
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_request_of_a_mix_can_be_made(write_dataset: WriteDataset, kind: IdKind, name: str):
    mix = Mix.load(name)
    workload = Workload.load(write_dataset(kind), mix.draw)
    random = Random(0)
    for request_type in mix.weighted_types(workload, writes=True):
        for _ in range(20):
            request = request_type.make(workload, random)
            assert isinstance(request.user_id, str if kind is IdKind.STRING else int)
            assert (request.user_id in workload.user_ids) == (request_type.name != "cold user")
            if isinstance(request, Event):
                assert request.action in workload.outcomes
                assert request.item_id is not None
            elif mix.draw is Draw.LOG:
                assert request.surface == "search", "every event of this log is on that surface"


def test_the_uniform_mix_has_every_type():
    assert set(Mix.load("uniform").weights) == set(REQUEST_TYPES)


def test_a_dataset_leaves_out_what_it_makes_impossible(write_dataset: WriteDataset):
    workload = Workload.load(write_dataset(surfaces=("",), title=""))
    types = Mix.load("uniform").weighted_types(workload, writes=False)
    assert set(REQUEST_TYPES) - {t.name for t in types} == {"surface", "search", "log event"}


def test_the_log_decides_how_often_users_come_and_how_many_search(write_dataset: WriteDataset):
    mix = Mix.load("log")
    workload = Workload.load(write_dataset(), mix.draw)
    random = Random(0)
    users = Counter(workload.visit(random).user_id for _ in range(3000))
    # Of 150 events the first user has 52. In 3,000 draws a share of about 0.35 has a standard deviation of 0.009.
    assert users[0] / 3000 == pytest.approx(52 / 150, abs=0.06)
    weights = {t.name: weight for t, weight in mix.weighted_types(workload, writes=True).items()}
    reads = sum(weight for name, weight in weights.items() if name != "log event")
    assert weights[SEARCH] / reads == pytest.approx(0.2)  # one event in five


def test_equal_seeds_make_equal_requests(write_dataset: WriteDataset):
    workload = Workload.load(write_dataset())

    def users(seed: int) -> list[int | str]:
        random = Random(seed)
        return [t.make(workload, random).user_id for t in Mix.load("uniform").weighted_types(workload, writes=False)]

    assert users(1) == users(1)
    assert users(1) != users(2)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('draw = "uniform"\n[weights]\n"cold users" = 1', r"weights=\['cold users'\]: expected only"),
        ('draw = "often"\n[weights]\n"cold user" = 1', "draw='often': expected one of"),
        ('draw = "uniform"\n[weights]\n"cold user" = -1', "expected a value of at least 0"),
        ('draw = "uniform"\n[weights]\n"cold user" = 0', "at least one weight above 0"),
        ('draw = "log"\n[weights]\n"search" = 1', "its share is that of the log"),
        ('draw = "uniform"\nweight = 3\n[weights]\n"cold user" = 1', r"\['weight'\]: expected only"),
    ],
)
def test_slips_in_a_file_are_refused(tmp_path: Path, text: str, sentence: str):
    path = tmp_path / "mix.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=sentence):
        Mix.load(str(path))


def test_an_unknown_name_is_no_mix():
    with pytest.raises(ConfigError, match=r"or one of \['log', 'uniform'\]"):
        Mix.load("unifrom")


def test_a_mix_of_which_nothing_is_left_is_refused(write_dataset: WriteDataset, tmp_path: Path):
    path = tmp_path / "mix.toml"
    path.write_text('draw = "uniform"\n[weights]\n"log event" = 1', "utf-8")
    with pytest.raises(ConfigError, match="a request type that this dataset allows"):
        Mix.load(str(path)).weighted_types(Workload.load(write_dataset()), writes=False)
