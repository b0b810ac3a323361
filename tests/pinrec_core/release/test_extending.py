"""A release of a newer catalogue: new items are found, old ones vanish, and nothing else changes."""

from __future__ import annotations

import datetime
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pinrec_core.dataset.catalogue import ItemCatalogue, write_catalogue
from pinrec_core.dataset.manifest import MANIFEST_NAME
from pinrec_core.errors import DataError, ReleaseError
from pinrec_core.evaluation.opening import open_extended, task_for_release
from pinrec_core.release.current import current_id, read_history
from pinrec_core.release.extending import changed_items, extend
from pinrec_core.release.format import Release
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.release.manifest import FILES, Part
from pinrec_core.release.programs import FILE, LOCAL_MANIFEST, LOCAL_PROGRAMS, LocalProgram, identity, programs_of
from pinrec_core.release.sample_requests import sample_requests
from pinrec_core.validation import load_json, save_json

LATER = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
NEW_ITEM, GONE_ITEM, LIKE_ITEM = 5000, 1000, 1050


def extended(base: Release, dataset: Path, releases: Path, **options: object) -> Release:
    task = task_for_release(base.manifest.training, dataset, targets=4)
    indexed = open_extended(base, task).indexed
    return extend(base, indexed, dataset=dataset, releases=releases, metrics={}, now=LATER, **options)


def changed(dataset: Path, folder: Path, **manifest: object) -> Path:
    """The same dataset with other values in its manifest."""
    shutil.copytree(dataset, folder)
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | manifest))
    return folder


@pytest.fixture
def releases(copies) -> Path:
    return copies("a")


@pytest.fixture
def newer(dataset, tmp_path) -> Path:
    """One item has gone, and a new one has the content of another."""
    folder = changed(dataset, tmp_path / "newer")
    old = ItemCatalogue.open(dataset)
    ids = old.item_ids(np.arange(len(old)))
    keep = np.flatnonzero(ids != GONE_ITEM)
    row = np.append(keep, np.flatnonzero(ids == LIKE_ITEM))
    ids = np.append(ids[keep], NEW_ITEM)
    write_catalogue(
        folder, item_key=ids, item_id=pa.array(ids), title=pa.array([f"item {i}" for i in ids]),
        categories=pa.array([""] * len(ids)), feature=old.feature[row], scale=old.scale[row],
    )  # fmt: skip
    return folder


def test_the_same_catalogue_gives_the_same_answers_to_the_bit(releases, dataset):
    base = Release.open(releases / "a")
    made = extended(base, dataset, releases)
    before, after = IndexedModel.from_release(base), IndexedModel.from_release(made)
    requests = sample_requests(before, num_items=40)
    assert after.generation == before.generation
    for expected, answer in zip(before.answer(requests), after.answer(requests), strict=True):
        np.testing.assert_array_equal(answer.item_row, expected.item_row)
        np.testing.assert_array_equal(answer.score, expected.score)


def test_new_items_are_recommended_and_old_ones_are_not(releases, newer):
    base = Release.open(releases / "a")
    made = extended(base, newer, releases)
    assert changed_items(base, made) == (1, 1)
    assert made.manifest.extends == "a"
    assert made.manifest.training == base.manifest.training
    assert current_id(releases) == made.manifest.release_id
    assert read_history(releases)[-1].by == "extend"

    before, after = IndexedModel.from_release(base), IndexedModel.from_release(made)
    requests = sample_requests(before, num_items=40)  # of items that both know, and of one that has gone
    assert after.generate(requests).equal(before.generate(requests)), "what is made of a user does not change"
    old = [set(before.catalogue.item_ids(answer.item_row).tolist()) for answer in before.answer(requests)]
    new = [set(after.catalogue.item_ids(answer.item_row).tolist()) for answer in after.answer(requests)]
    assert any(GONE_ITEM in items for items in old)
    assert not any(GONE_ITEM in items for items in new)
    assert any(NEW_ITEM in items for items in new), "it has the content of an item that is recommended"
    for one, other in zip(old, new, strict=True):  # both lists hold 40: one item came, and one went
        assert len(other - one - {NEW_ITEM}) <= 1


def test_the_index_holds_an_item_that_training_did_not_know_where_the_model_puts_it(releases, newer):
    made = extended(Release.open(releases / "a"), newer, releases)
    (row,) = np.flatnonzero(made.catalogue.item_ids(np.arange(len(made.catalogue))) == NEW_ITEM)
    tables = made.load_id_embedder()
    key = np.array(made.catalogue.item_key[[row]])
    assert np.abs(tables.embed(key)).max() > 0  # rows that its key's hashes select
    made.verify()  # compares stored vectors with the model's


def test_what_stays_the_same_is_shared_and_neither_release_needs_the_other(releases, newer):
    base = Release.open(releases / "a")
    made = extended(base, newer, releases, make_current=False)
    assert current_id(releases) == "a"
    for part, file in FILES.items():
        shared = (made.folder / file).samefile(base.folder / file)
        assert shared == (part in ("model", "id_embedder")), part
    shutil.rmtree(base.folder)
    Release.open(made.folder).verify()


def program_beside(base: Release, name: str, *, compiled_from: str | None = None) -> Path:
    """The folder of a made-up program for some machine."""
    folder = programs_of(base) / name
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(b"program")
    program = Part.of(folder, FILE, attributes={"products": "fp32"})
    save_json(LocalProgram(release=compiled_from or identity(base), program=program), folder / LOCAL_MANIFEST)
    return folder


def test_programs_that_were_compiled_beside_it_come_along(releases, newer):
    base = Release.open(releases / "a")
    program_beside(base, "fits")
    program_beside(base, "of-another", compiled_from="0" * 64)
    made = extended(base, newer, releases)
    (carried,) = programs_of(made).iterdir()
    assert carried.name == "fits"
    local = load_json(LocalProgram, carried / LOCAL_MANIFEST, error=ReleaseError, what="a program")
    assert local.release == identity(made)
    assert (carried / FILE).read_bytes() == b"program"


def test_a_program_that_cannot_be_read_or_is_damaged_is_left_out_with_a_warning(releases, newer, caplog):
    base = Release.open(releases / "a")
    program_beside(base, "fits")
    (program_beside(base, "cut-short") / LOCAL_MANIFEST).write_text("{")
    (program_beside(base, "changed") / FILE).write_bytes(b"prog")
    (program_beside(base, "gone") / FILE).unlink()
    made = extended(base, newer, releases)
    assert [folder.name for folder in programs_of(made).iterdir()] == ["fits"]
    warnings = [record.getMessage() for record in caplog.records if "is left out" in record.getMessage()]
    assert len(warnings) == 3
    for name, said in {"changed": "sha256", "cut-short": "JSON", "gone": "No such file"}.items():
        assert any(str(programs_of(base) / name) in one and said in one for one in warnings), name


def test_programs_that_cannot_be_carried_leave_no_release(releases, newer, monkeypatch):
    base = Release.open(releases / "a")
    program_beside(base, "fits")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pinrec_core.release.extending.save_json", full)
    with pytest.raises(OSError, match="No space left on device"):
        extended(base, newer, releases)
    assert current_id(releases) == "a"
    assert sorted(path.name for path in releases.iterdir() if path.is_dir()) == ["a", LOCAL_PROGRAMS]
    assert [path.name for path in (releases / LOCAL_PROGRAMS).iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ({"outcomes": ["click", "save", "hide"]}, "outcomes=('click', 'save', 'hide') of dataset 'walk'"),
        ({"surfaces": ["", "home", "related", "search", "new"]}, "surfaces="),
        ({"feature_space": "hashed_ngram:24+vector:0"}, "feature_space='hashed_ngram:24+vector:0'"),
        ({"item_id_kind": "string"}, "item_id_kind="),
        ({"user_id_kind": "string"}, "user_id_kind of dataset 'walk'='string': expected 'int64'"),
        ({"name": "other"}, "name='other'"),
    ],
)
def test_a_dataset_that_the_model_has_no_use_for_is_refused(releases, dataset, tmp_path, manifest, said):
    with pytest.raises(DataError) as refused:
        extended(Release.open(releases / "a"), changed(dataset, tmp_path / "other", **manifest), releases)
    assert said in str(refused.value)
    assert [path.name for path in releases.iterdir() if path.is_dir()] == ["a"]


def test_a_damaged_release_is_not_extended(releases, newer):
    base = Release.open(releases / "a")
    task = task_for_release(base.manifest.training, newer, targets=4)
    indexed = open_extended(base, task).indexed
    tables = base.folder / FILES["id_embedder"]
    tables.write_bytes(tables.read_bytes()[:-1] + b"?")
    with pytest.raises(ReleaseError, match=r"id_embedder\.safetensors: sha256"):
        extend(base, indexed, dataset=newer, releases=releases, metrics={}, now=LATER)
    assert current_id(releases) == "a"
    assert [path.name for path in releases.iterdir() if path.is_dir()] == ["a"]
