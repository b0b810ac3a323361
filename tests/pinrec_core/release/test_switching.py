"""The pointer moves to what has passed every check, and back to what was there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pinrec_core.errors import ReleaseError
from pinrec_core.release import checking
from pinrec_core.release.checking import check_answers, check_figures, check_measured_recall, measure_recall
from pinrec_core.release.current import current_id, read_history
from pinrec_core.release.format import Release
from pinrec_core.release.in_use import release_in_use
from pinrec_core.release.manifest import FILES, MANIFEST_FILE, open_manifest
from pinrec_core.release.switching import publish_existing, roll_back
from pinrec_core.retrieval.item_index import ItemIndex
from tests.pinrec_core.release.conftest import edit_manifest


def publish(releases: Path, name: str, **options: object) -> list[str]:
    return publish_existing(releases / name, releases, **{"tolerance": 0.05, **options})


def metrics(folder: Path, **changes: object) -> None:
    edit_manifest(folder, metrics=json.loads((folder / MANIFEST_FILE).read_text())["metrics"] | changes)


def test_what_passes_becomes_current_and_is_taken_back(copies):
    releases = copies("ab")
    metrics(releases / "a", served_recall=0.49)
    assert publish(releases, "a") == ["served_recall 0.4900, 0.5000 for b"]
    assert current_id(releases) == "a"
    assert read_history(releases)[-1].by == "publish"
    assert not release_in_use(releases / "a")
    assert roll_back(releases) == ("a", "b")
    assert current_id(releases) == "b"
    assert roll_back(releases) == ("b", "a")  # which was current before b


def test_nothing_is_published_with_worse_figures_unless_that_is_accepted(copies):
    releases = copies("ab")
    metrics(releases / "a", served_recall=0.47)
    with pytest.raises(
        ReleaseError, match=r"served_recall=0\.4700, 0\.5000 for b, .* at most 5\.0% less; --accept-worse"
    ):
        publish(releases, "a")
    assert current_id(releases) == "b"
    assert publish(releases, "a", tolerance=0.1)
    publish(releases, "b")
    assert publish(releases, "a", accept_worse=True) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"protocol": "leave-one-out"}, "protocol is 'leave-one-out', and 'held-out' for b"),
        ({"num_items": 10}, "num_items is 10, and 100 for b"),
    ],
)
def test_figures_of_another_task_are_not_compared_and_that_is_said(copies, changes, said):
    releases = copies("ab")
    metrics(releases / "a", served_recall=0.1, **changes)
    assert publish(releases, "a") == [f"figures are not compared: {said}"]


def test_a_release_without_figures_is_compared_with_nothing(published):
    judged, unjudged = published.manifest, replace(published.manifest, metrics={}, release_id="x")
    assert check_figures(unjudged, judged, 0.05) == "figures are not compared: x was not judged"
    assert check_figures(judged, unjudged, 0.05) == "figures are not compared: x was not judged"


def test_what_is_damaged_or_strange_is_not_published(copies, tmp_path):
    releases = copies("abcd")
    path = releases / "a" / FILES["model"]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ReleaseError, match="sha256"):
        publish(releases, "a")
    calibration = json.loads((releases / "b" / MANIFEST_FILE).read_text())["calibration"]
    edit_manifest(releases / "b", calibration=calibration | {"recall": 0.9})
    with pytest.raises(ReleaseError, match=r"recall@\d+ of 0\.900 .*--accept-recall"):
        publish(releases, "b")
    (releases / "c").rename(releases / "other")
    with pytest.raises(ReleaseError, match="release_id='c', expected the name of the folder"):
        publish(releases, "other")
    elsewhere = (releases / "a").rename(tmp_path / "a")
    with pytest.raises(ReleaseError, match="copy it there first"):
        publish_existing(elsewhere, releases, tolerance=0.05)
    assert current_id(releases) == "d"
    publish(releases, "b", accept_recall=True)


def test_a_rollback_to_what_is_gone_or_damaged_is_refused(copies):
    releases = copies("abc")
    path = releases / "b" / FILES["index"]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ReleaseError, match=r"index\.faiss: sha256"):
        roll_back(releases)
    (releases / "b").rename(releases / "away")
    with pytest.raises(ReleaseError, match=r"b: expected the release to go back to; it is gone\. --to names another"):
        roll_back(releases)
    with pytest.raises(ReleaseError, match="--to='c': expected another release, this one is current"):
        roll_back(releases, to="c")
    assert current_id(releases) == "c"
    assert roll_back(releases, to="a") == ("c", "a")
    with pytest.raises(ReleaseError, match="no release was current before a: expected --to"):
        roll_back(releases)


def test_the_recall_is_measured_again(published, monkeypatch):
    assert measure_recall(published) == 1.0  # a small catalogue is searched exactly
    search = ItemIndex.search

    def poor(self, query, k, **options):
        score, row = search(self, query, k, **options)
        return score, np.where(np.arange(k) < k // 2, row, -1)

    monkeypatch.setattr(ItemIndex, "search", poor)
    with pytest.raises(
        ReleaseError, match=r"the index finds 0\.\d+ of what exact search finds .* manifest claims 1\.000"
    ):
        check_measured_recall(published)


@pytest.mark.parametrize("fault", ["twice", "number", "short"])
def test_answers_that_no_user_should_get_are_found(published, monkeypatch, fault):
    check_answers(published)
    answer = checking.IndexedModel.answer

    def wrong(self, requests):
        first, *others = answer(self, requests)
        changes = {
            "twice": {"item_row": np.repeat(first.item_row[:1], len(first.item_row))},
            "number": {"score": np.full_like(first.score, np.nan)},
            "short": {"item_row": first.item_row[:3], "score": first.score[:3]},
        }
        return [replace(first, **changes[fault]), *others]

    monkeypatch.setattr(checking.IndexedModel, "answer", wrong)
    with pytest.raises(ReleaseError, match=r"a request with a history of 0 gets .* expected 10 with finite scores"):
        check_answers(published)


def test_a_current_release_that_cannot_be_read_does_not_block_the_next(copies):
    releases = copies("ab")
    (releases / "b" / MANIFEST_FILE).write_text("{}")
    assert publish(releases, "a") == []
    assert open_manifest(releases / current_id(releases)).release_id == "a"
    assert Release.open(releases / "a").manifest.release_id == "a"
