"""One Spark session and one prepared dataset with its signals, shared by all tests of the package."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from signal_service.batch_job import run_batch_job
from signal_service.spark_session import spark_session
from signal_service.view_writing import build_batch_view
from tests.signal_service.builders import EVENTS, write_prepared


@pytest.fixture(scope="session")
def spark_up() -> Iterator[None]:
    """One Spark session for all tests of a run. ``run_batch_job`` uses the session that it finds."""
    with spark_session(name="tests", master="local[2]", driver_memory="1g", shuffle_partitions=2, quick=True):
        yield


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, spark_up: None) -> Path:
    """A prepared dataset with batch signals of its events before 1050. The last of ``EVENTS`` are at 1059."""
    folder = write_prepared(tmp_path_factory.mktemp("data") / "prepared", EVENTS)
    run_batch_job(folder, end_time=1050)
    build_batch_view(folder / "signals")
    return folder


@pytest.fixture
def signals(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the signals, which a test may change."""
    return shutil.copytree(prepared / "signals", tmp_path / "signals")


@pytest.fixture(scope="session")
def catalogue(prepared: Path) -> ItemCatalogue:
    return ItemCatalogue.open(prepared)


@pytest.fixture(scope="session")
def manifest(prepared: Path) -> DatasetManifest:
    return DatasetManifest.load(prepared)
