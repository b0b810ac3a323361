"""One small study, run once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.quality.results import StudyResult, load_all
from tests.benchmarks.quality.small_study import STUDY, run_here
from tests.pinrec_core.builders import write_dataset


@pytest.fixture(scope="package")
def datasets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    write_dataset(folder / "walk")
    return folder


@pytest.fixture(scope="package")
def place(tmp_path_factory, datasets) -> Path:
    """A folder in which the study ``yelp.toml`` has been run: ``work`` and ``figures``."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "yelp.toml").write_text(STUDY, "utf-8")
    assert run_here(folder, datasets) == {}
    return folder


@pytest.fixture
def result(place) -> StudyResult:
    return load_all(place / "figures")[0]
