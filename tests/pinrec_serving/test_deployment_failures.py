"""What a deployment does when loading fails, at whatever moment: without Triton, whose failures are hard to time."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pinrec_core.errors import ServerError
from pinrec_serving import deployment as module
from pinrec_serving.deployment import Deployment
from pinrec_serving.model_repository import write_stage
from pinrec_serving.options import ServingOptions
from tests.pinrec_serving.conftest import REPOSITORY, manifest, stand_in_release

GENERATOR = "generator__r1"


class Control:
    """In place of Triton: what is loaded. Loading ``failing`` fails; ``while_loading`` is called before that."""

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.failing = ""
        self.while_loading: Callable[[str], object] = lambda name: None

    def load(self, name: str) -> None:
        self.while_loading(name)
        if name == self.failing:
            raise ServerError(f"{name} cannot be loaded")
        self.loaded.add(name)

    def unload(self, name: str) -> None:
        self.loaded.discard(name)

    def wait_unloaded(self, names: list[str], deadline: float) -> bool:
        return True


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> Control:
    control = Control()
    monkeypatch.setattr(module, "ModelControl", lambda server: control)
    monkeypatch.setattr(module, "check_answer", lambda *_: None)
    return control


@pytest.fixture
def server(tmp_path: Path) -> Any:
    folders = SimpleNamespace(repository=tmp_path / "repository", heartbeats=tmp_path / "heartbeats")
    folders.repository.mkdir()
    folders.heartbeats.mkdir()
    return folders


@pytest.fixture
def deployment(server: Any, control: Control, tmp_path: Path) -> Deployment:
    """It serves r1."""
    deployment = Deployment(server, REPOSITORY, ServingOptions(signals=tmp_path))
    deploy(deployment, "r1")
    assert deployment.ready
    return deployment


def deploy(deployment: Deployment, release_id: str, between: Callable[[], None] = lambda: None) -> None:
    deployment.deploy(
        release_id=release_id, folder=stand_in_release(release_id), dataset=manifest(), between=between
    )  # fmt: skip


def test_the_other_processes_of_a_stage_end_with_it_and_that_is_no_news(
    deployment: Deployment, control: Control, server: Any
) -> None:
    for pid in (11, 12):
        (server.heartbeats / f"{pid}.{GENERATOR}").touch()
    assert deployment.process_ended(GENERATOR, 11)
    assert not deployment.ready
    assert deployment.restart(GENERATOR)
    assert not deployment.process_ended(GENERATOR, 12)
    assert deployment.ready
    assert "pinrec" in control.loaded
    assert deployment.process_ended(GENERATOR, 21), "a new process has ended"


def test_a_stage_that_cannot_be_loaded_again_is_asked_for_once(deployment: Deployment, control: Control) -> None:
    assert deployment.process_ended(GENERATOR, 11)
    control.failing = GENERATOR
    news = []
    control.while_loading = lambda name: news.append(deployment.process_ended(GENERATOR, 21))
    with pytest.raises(ServerError, match="cannot be loaded"):
        deployment.restart(GENERATOR)
    assert news == [False]
    control.failing = ""
    with pytest.raises(ServerError, match="ended again"):  # it ended although it could be loaded
        deployment.restart(GENERATOR)
    control.while_loading = lambda name: None
    assert not deployment.ready
    assert "pinrec" not in control.loaded
    assert deployment.restart(GENERATOR)
    assert deployment.ready
    assert "pinrec" in control.loaded


def test_what_clients_call_is_tried_again_too(deployment: Deployment, control: Control) -> None:
    assert deployment.process_ended(GENERATOR, 11)
    control.failing = "pinrec"
    with pytest.raises(ServerError, match="pinrec cannot be loaded"):
        deployment.restart(GENERATOR)
    assert not deployment.ready
    control.failing = ""
    assert deployment.restart(GENERATOR)
    assert deployment.ready
    assert "pinrec" in control.loaded


def test_nothing_is_ready_before_the_last_stage_is_back(deployment: Deployment, control: Control) -> None:
    assert deployment.process_ended(GENERATOR, 11)
    assert deployment.process_ended("faiss_retrieval__r1", 12)
    assert deployment.restart(GENERATOR)
    assert not deployment.ready
    assert "pinrec" not in control.loaded
    assert deployment.restart("faiss_retrieval__r1")
    assert deployment.ready
    assert not deployment.restart(GENERATOR)


def test_a_switch_that_fails_leaves_the_ensemble_of_the_release_that_serves(
    deployment: Deployment, control: Control, server: Any
) -> None:
    control.failing = "pinrec"
    with pytest.raises(ServerError, match="pinrec cannot be loaded"):
        deploy(deployment, "r2")
    written = (server.repository / "pinrec" / "config.pbtxt").read_text("utf-8")
    assert "generator__r1" in written
    assert "__r2" not in written
    assert not left_of("r2", control, server)
    assert deployment.ready


def test_a_full_disk_leaves_nothing_of_the_new_release(
    deployment: Deployment, control: Control, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(*arguments: Any, name: str, **options: Any) -> None:
        write_stage(*arguments, name=name, **options)
        if name.startswith("generator"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_stage", fill_up)
    with pytest.raises(OSError, match="No space left"):
        deploy(deployment, "r2")
    assert not left_of("r2", control, server)
    assert deployment.release_id == "r1"
    assert deployment.ready


def test_a_stage_comes_back_between_the_steps_of_a_swap(deployment: Deployment, control: Control) -> None:
    states: list[bool] = []

    def between() -> None:
        if not states:
            assert deployment.process_ended(GENERATOR, 11)
            assert deployment.restart(GENERATOR)
        states.append(deployment.ready)

    deploy(deployment, "r2", between)
    assert set(states) == {True}
    assert deployment.ready
    assert deployment.release_id == "r2"


@pytest.mark.parametrize("moment", ["generator__r2", "pinrec__r2"])
def test_a_swap_does_not_end_a_drain(deployment: Deployment, control: Control, moment: str) -> None:
    control.while_loading = lambda name: name == moment and deployment.drain(1.0)
    with pytest.raises(ServerError, match="drains"):
        deploy(deployment, "r2")
    assert not deployment.ready
    assert "pinrec" not in control.loaded


def test_a_restart_does_not_end_a_drain(deployment: Deployment, control: Control) -> None:
    assert deployment.process_ended(GENERATOR, 11)
    control.while_loading = lambda name: name == GENERATOR and deployment.drain(1.0)
    assert not deployment.restart(GENERATOR)
    assert not deployment.ready
    assert "pinrec" not in control.loaded


def left_of(release_id: str, control: Control, server: Any) -> list[str]:
    names = {*control.loaded, *(folder.name for folder in server.repository.iterdir())}
    return [name for name in names if name.endswith(f"__{release_id}")]
