"""The manifest of a dataset: it reads back as it was written, and nothing in it is taken for what it is not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pinrec_core.dataset.manifest import MANIFEST_NAME, DatasetManifest
from pinrec_core.errors import DataError
from pinrec_core.ids import IdKind
from tests.pinrec_core.builders import tiny_config

MANIFEST = DatasetManifest(
    name="walk", user_id_kind=IdKind.INT, item_id_kind=IdKind.STRING, outcomes=("save", "click", "hide"),
    query_actions=("search",), ignored_actions=(), surfaces=("", "home", "related", "search"), feature_width=12,
    feature_space="hashed_ngram:12+vector:0", text_encoder="hashed_ngram:12", num_items=5, num_users=3, num_events=9,
    outcome_share=(0.5, 0.25, 0.25), first_timestamp=1, last_timestamp=2,
)  # fmt: skip


def test_a_manifest_reads_back_as_it_was_written(tmp_path):
    MANIFEST.save(tmp_path)
    assert DatasetManifest.load(tmp_path) == MANIFEST


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_items": "5"}, "num_items='5': expected a whole number"),
        ({"num_items": 5.0}, "num_items=5.0: expected a whole number"),
        ({"num_items": True}, "num_items=True: expected a whole number"),
        ({"num_users": -1}, "num_users=-1: expected a value of at least 0"),
        ({"outcomes": "save"}, "outcomes='save': expected a list"),
        ({"surfaces": ["", 7]}, "surfaces[1]=7: expected a text"),
        ({"surfaces": ["home"]}, "surfaces=('home',): expected the unknown surface '' first"),
        ({"outcomes": [], "outcome_share": []}, "outcomes=(): expected at least one positive action"),
        ({"outcome_share": [1.0]}, "outcome_share=(1.0,): expected 3 entries, one per outcome"),
        ({"item_id_kind": "uuid"}, "item_id_kind='uuid': expected one of ['int64', 'string']"),
    ],
)
def test_a_manifest_with_other_values_is_refused(tmp_path, changes, sentence):
    MANIFEST.save(tmp_path)
    path = tmp_path / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(DataError) as refused:
        DatasetManifest.load(tmp_path)
    assert str(refused.value) == f"{path}: {sentence}"


def test_a_manifest_with_other_keys_or_none_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected a prepared dataset's manifest; run `pinrec prepare` first"):
        DatasetManifest.load(tmp_path)
    MANIFEST.save(tmp_path)
    path = tmp_path / MANIFEST_NAME
    plain = json.loads(path.read_text())
    path.write_text(json.dumps(plain | {"colour": 1}))
    with pytest.raises(DataError, match=r"DatasetManifest keys=\['colour'\]: expected only"):
        DatasetManifest.load(tmp_path)
    del plain["name"]
    path.write_text(json.dumps(plain))
    with pytest.raises(DataError, match="name is missing: expected a value"):
        DatasetManifest.load(tmp_path)


def test_a_model_fits_the_dataset_that_it_was_trained_on_and_no_other():
    MANIFEST.check_identity(MANIFEST.identity)
    replace(MANIFEST, num_users=4, num_events=10).check_identity(MANIFEST.identity)  # the log has grown
    other = replace(MANIFEST, outcomes=("click", "save", "hide"))
    with pytest.raises(DataError, match=r"outcomes=\('click', .*: expected \('save', .*, which the model was trained"):
        other.check_identity(MANIFEST.identity)


def test_a_model_of_other_sizes_is_refused():
    MANIFEST.check_model(tiny_config())
    with pytest.raises(DataError, match="num_outcomes=3 of dataset 'walk': expected 4, which the model was made for"):
        MANIFEST.check_model(replace(tiny_config(), num_outcomes=4))
