"""The pointer moves to what has passed every check, and back to what was there."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pinrec_core.errors import ReleaseError
from pinrec_core.release import checking
from pinrec_core.release.checking import check_answers, check_figures, measure_recall
from pinrec_core.release.current import current_id, read_history
from pinrec_core.release.format import Release
from pinrec_core.release.in_use import release_in_use
from pinrec_core.release.manifest import FILES, MANIFEST_FILE, HeldOut, open_manifest
from pinrec_core.release.publishing import publish as write
from pinrec_core.release.switching import publish_existing, roll_back
from pinrec_core.retrieval.item_index import ItemIndex
from pinrec_core.validation import to_plain
from tests.pinrec_core.release.conftest import NOW, edit_manifest


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


def test_a_rollback_repairs_a_pointer_to_nothing_or_a_strange_one(copies):
    releases = copies("abc")
    shutil.rmtree(releases / "c")
    assert roll_back(releases) == ("c", "b")
    (releases / "current").write_text("?")
    with pytest.raises(ReleaseError, match="expected letters"):
        roll_back(releases)
    assert roll_back(releases, to="a") == (None, "a")


def test_an_index_that_finds_less_than_its_manifest_claims_is_refused(serving, dataset, tmp_path):
    """Three inverted lists, all of which are probed; then, by a changed manifest, only one."""
    vectors = serving.index.vectors_of(np.arange(len(serving.index)))
    index = ItemIndex.build(vectors, flat_items=1, nprobe=3)
    assert (index.structure, index.nlist) == ("IVF_HNSW", 3)
    lists = replace(
        serving, index=index, generation=replace(serving.generation, nprobe=3),
        calibration=replace(serving.calibration, index_type=index.structure, nlist=3, nprobe=3, recall_depth=20),
    )  # fmt: skip
    training = HeldOut(evaluation_share=0.3, held_out_last=0)
    release = write(lists, dataset=dataset, releases=tmp_path, training=training, metrics={}, now=NOW)
    assert measure_recall(release) == 1.0
    assert publish(tmp_path, release.folder.name) == []
    edit_manifest(release.folder, generation=to_plain(replace(lists.generation, nprobe=1)))
    with pytest.raises(ReleaseError, match=r"the index finds 0\.\d+ of what exact search .* manifest claims 1\.000"):
        publish(tmp_path, release.folder.name)


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
