"""One small run, for the tests that only read a finished run."""

from __future__ import annotations

import pytest

from pinrec_core.training.run import Run
from tests.pinrec_core.training.small_training import train_small


@pytest.fixture(scope="session")
def run(dataset, tmp_path_factory) -> Run:
    return train_small(dataset, tmp_path_factory.mktemp("run"))
