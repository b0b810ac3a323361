"""The images, and a release that their containers serve. Everything here is skipped where no Docker engine runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.compose_project import compose, open_to_containers
from tests.docker.project import need_engine
from tests.end_to_end.conftest import make_release, pinrec

USERS = 300
IMAGES = {"PINREC_IMAGE": "pinrec-on-triton:test", "PINREC_OBSERVE_IMAGE": "pinrec-observe:test"}


@pytest.fixture(scope="session")
def images() -> dict[str, str]:
    """Both images, built from this working tree. TORCH_INDEX of the environment is used."""
    need_engine()
    compose("--profile", "observe", "build", "-q", "demo-release", "prometheus", environment=IMAGES, timeout=1200)
    return IMAGES


@pytest.fixture(scope="session")
def released(images, tmp_path_factory) -> Path:
    """What the volume ``data`` holds once ``pinrec demo --build-only`` has run, with a smaller log."""
    folder = tmp_path_factory.mktemp("data")
    pinrec("synth", "--out", folder / "log", "--users", USERS, "--items", 500, "--events", 8000, "--no-queries")
    make_release(folder, ["--config", folder / "log" / "dataset.toml"], epochs=1)
    return folder


@pytest.fixture(scope="module")
def data(released, tmp_path_factory) -> Path:
    """A copy of it that the user of the containers, 1000, may change."""
    folder = tmp_path_factory.mktemp("volume") / "data"
    shutil.copytree(released, folder)
    open_to_containers(folder)
    return folder
