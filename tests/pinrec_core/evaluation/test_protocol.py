"""Which users and rows subjects are judged on, and that a trained model beats the baselines that know nothing of it."""

from __future__ import annotations

import datetime
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pinrec_core.dataset.catalogue import ItemCatalogue, write_catalogue
from pinrec_core.dataset.manifest import CATALOGUE_NAME
from pinrec_core.errors import ConfigError, DataError
from pinrec_core.evaluation import protocol as protocols
from pinrec_core.evaluation.cases import ahead_of_request, held_out_cases
from pinrec_core.evaluation.judging import judge
from pinrec_core.evaluation.opening import open_subject, task_for_subjects
from pinrec_core.evaluation.protocol import CALIBRATION_REQUESTS_PER_USER, Protocol
from pinrec_core.evaluation.result import compare, compare_at_equal_distinct_items
from pinrec_core.release.manifest import HeldOut
from pinrec_core.release.publishing import publish
from tests.pinrec_core.conftest import EVALUATION_SHARE, train_tiny

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def release(serving, dataset, tmp_path) -> str:
    return released(serving, dataset, tmp_path, evaluation_share=EVALUATION_SHARE / 3, held_out_last=1)


def released(serving, dataset, folder, **held_out) -> str:
    kept = HeldOut(**held_out)
    return str(
        publish(serving, dataset=dataset, releases=folder / "releases", training=kept, metrics={}, now=NOW).folder
    )


def test_training_beats_popularity_on_users_it_never_saw(dataset, tmp_path):
    """By the lower bound of the interval: a lucky ratio over a few users would not do."""
    run = train_tiny(dataset, tmp_path, epochs=30)
    names = [str(run.folder), "popularity", "popularity-by-surface"]
    task = task_for_subjects(names, targets=4)
    model, *popular = [judge(open_subject(name, task), task, k=1, equal_embeddings=100, num_items=20) for name in names]
    for baseline in popular:
        assert compare_at_equal_distinct_items(model, baseline).low > 1.5
        assert compare([model], [baseline], "served_hit").low > 1.5


def test_a_model_is_its_own_equal(run):
    task = task_for_subjects([str(run.folder)], targets=4)
    first, second = (judge(open_subject(str(run.folder), task), task) for _ in range(2))
    for array in ("hit", "served_hit"):
        ratio = compare([first], [second], array)
        assert (ratio.value, ratio.low, ratio.high) == (1, 1, 1)


def test_a_release_is_judged_on_its_own_rows_and_on_users_held_out_of_it(release, dataset, tmp_path):
    """The dataset given has grown since, so that its rows are others; a tenth of the users is not what was held out."""
    grown = shutil.copytree(dataset, tmp_path / "grown")
    table = pa.ipc.open_file(dataset / CATALOGUE_NAME).read_all().drop_columns("feature")
    old = ItemCatalogue.open(dataset)
    write_catalogue(
        grown,
        item_key=np.concatenate([[1, 2, 3], old.item_key]),
        item_id=pa.array([1, 2, 3, *table["item_id"].to_pylist()]),
        title=pa.array(["new"] * 3 + table["title"].to_pylist()),
        categories=pa.array([""] * (3 + len(old))),
        feature=np.concatenate([old.feature[:3], old.feature]),
        scale=np.concatenate([old.scale[:3], old.scale]),
    )
    task = task_for_subjects([release, "popularity"], dataset=grown, targets=4)
    subject = open_subject(release, task)
    expected = list(held_out_cases(dataset, old, share=EVALUATION_SHARE / 3, targets=4))
    assert [c.target_row.tolist() for c in task.cases(subject.catalogue)] == [c.target_row.tolist() for c in expected]
    # A baseline counts in the rows of the dataset; users are the same, so the two still compare.
    popularity = judge(open_subject("popularity", task), task)
    assert len(popularity.user_id) == len(expected)
    compare([judge(subject, task)], [popularity], "hit")


def test_users_are_those_that_every_subject_held_out(release, run, dataset):
    task = task_for_subjects([str(run.folder), release])
    assert task.evaluation_share == EVALUATION_SHARE / 3
    assert task.dataset == dataset  # the run's: a release does not know its own


def test_calibration_is_that_of_a_release_whatever_is_judged(run, dataset):
    """By users that are not judged and have a history: a user without one would merge at another threshold."""
    of_protocol = []
    for protocol in (Protocol.HELD_OUT, Protocol.COLD):
        task = task_for_subjects([str(run.folder)], protocol=protocol, targets=4)
        catalogue = ItemCatalogue.open(dataset)
        calibration = task.calibration_cases(catalogue)
        assert calibration
        assert not {c.user_id for c in calibration} & {c.user_id for c in task.cases(catalogue)}
        of_protocol.append([(c.user_id, len(c.history)) for c in calibration])
    assert of_protocol[0] == of_protocol[1]
    assert min(length for _, length in of_protocol[0]) > 0


def test_few_users_are_asked_for_several_requests_each(run, dataset, monkeypatch):
    """The latest of every user first, then the ones before, as long as there are any, and no more than are wanted."""
    task = task_for_subjects([str(run.folder)], targets=2)
    catalogue = ItemCatalogue.open(dataset)
    found = task.calibration_cases(catalogue)
    users = [case.user_id for case in found]
    distinct = len(set(users))
    assert len(users) > 2 * distinct
    assert len(set(users[:distinct])) == distinct
    assert max(users.count(user) for user in set(users)) <= CALIBRATION_REQUESTS_PER_USER
    by_user = [case for case in found if case.user_id == users[0]]
    assert [len(case.history) for case in by_user] == sorted((len(case.history) for case in by_user), reverse=True)
    monkeypatch.setattr(protocols, "CALIBRATION_CASES", distinct + 3)
    assert len(task.calibration_cases(catalogue)) == distinct + 3


def test_ahead_of_the_request_nothing_of_it_is_known(run, dataset):
    """Neither to those who are judged nor to those a model is calibrated on; the targets are the same."""
    catalogue = ItemCatalogue.open(dataset)
    online, offline = (
        task_for_subjects([str(run.folder)], protocol=protocol, targets=4)
        for protocol in (Protocol.HELD_OUT, Protocol.HELD_OUT_OFFLINE)
    )
    for known, ahead in zip(
        [*online.cases(catalogue), *online.calibration_cases(catalogue)],
        [*offline.cases(catalogue), *offline.calibration_cases(catalogue)],
        strict=True,
    ):
        assert known.user_id == ahead.user_id
        assert known.target_row.tolist() == ahead.target_row.tolist()
        history = known.history
        assert (ahead.request_surface, ahead.request_time) == (history.surface[-1], history.timestamp[-1])
        assert known.request_time > ahead.request_time
    first = next(iter(online.cases(catalogue)))
    cold = replace(first, history=first.history.take(slice(0, 0)))
    assert ahead_of_request(cold) is cold


def test_what_cannot_be_judged_is_refused(release, run, dataset, tmp_path):
    with pytest.raises(ConfigError, match="--dataset: expected the prepared dataset"):
        task_for_subjects([release])
    with pytest.raises(ConfigError, match="--dataset: expected the prepared dataset"):
        task_for_subjects(["popularity"])
    everybody = shutil.copytree(run.folder, tmp_path / "everybody")
    plain = json.loads((everybody / "run.json").read_text())
    plain["training"]["evaluation_share"] = 0.0
    (everybody / "run.json").write_text(json.dumps(plain))
    with pytest.raises(ConfigError, match="evaluation_share=0, expected users held out for --protocol cold"):
        task_for_subjects([str(everybody)], protocol=Protocol.COLD)
    with pytest.raises(ConfigError, match=r"or with --set training\.held_out_last=2 for --protocol leave-one-out$"):
        task_for_subjects([str(everybody)])
    with pytest.raises(ConfigError, match="held_out_last=0, expected at least 1"):
        task_for_subjects([str(run.folder)], protocol=Protocol.LEAVE_ONE_OUT)
    with pytest.raises(ConfigError, match="held_out_last=1, expected at least 2"):
        task_for_subjects([release], dataset=dataset, protocol=Protocol.LEAVE_ONE_OUT_VALIDATION)
    other = shutil.copytree(dataset, tmp_path / "other")
    manifest = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps(manifest | {"surfaces": ["", "home"]}))
    task = task_for_subjects([release], dataset=other)
    with pytest.raises(DataError, match=r"surfaces=\('', 'home'\), expected .* which the release was made with"):
        open_subject(release, task)


def test_a_baseline_counts_what_the_models_were_trained_on(release, dataset):
    task = task_for_subjects([release], dataset=dataset, protocol=Protocol.LEAVE_ONE_OUT)
    assert task.held_out_last == 1
    alone = task_for_subjects(["popularity"], dataset=dataset, protocol=Protocol.LEAVE_ONE_OUT_VALIDATION)
    assert (alone.held_out_last, alone.evaluation_share) == (2, 0.0)
    everything = task_for_subjects(["popularity"], dataset=dataset)
    counted = [sum(map(len, s.training_histories())) for s in (everything, alone)]
    assert counted[0] != counted[1]


@pytest.mark.parametrize("protocol", list(Protocol))
def test_every_protocol_judges_a_release_and_a_baseline_on_the_same_users(protocol, serving, dataset, tmp_path):
    folder = released(serving, dataset, tmp_path, evaluation_share=EVALUATION_SHARE, held_out_last=2)
    task = task_for_subjects([folder, "co-occurrence"], dataset=dataset, protocol=protocol, targets=4, max_users=9)
    model, counted = (judge(open_subject(name, task), task) for name in (folder, "co-occurrence"))
    assert model.user_id == counted.user_id
    assert len(model.user_id) == 9
    assert model.protocol == protocol
    assert ("ndcg" in model.arrays) == bool(protocol.left_out)
