"""A run is indexed with the dataset it was trained on."""

from __future__ import annotations

import json
import shutil

import pytest

from pinrec_core.errors import DataError
from tests.pinrec_core.conftest import indexed_model


def test_a_dataset_of_other_sizes_is_refused(run, dataset, tmp_path):
    other = shutil.copytree(dataset, tmp_path / "other")
    manifest = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps(manifest | {"surfaces": ["", "home"]}))
    with pytest.raises(DataError, match="num_surfaces=2 of dataset 'walk': expected 4"):
        indexed_model(run, other)
