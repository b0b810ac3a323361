"""The ID embedder as a service of its own beside an ensemble: both are ``pinrec serve``, and the service goes away."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from pinrec_core.release.current import point_current
from pinrec_serving.runtime import Endpoint
from tests.pinrec_serving.conftest import REPOSITORY, free_endpoint
from tests.pinrec_serving.serve_process import Service, children

pytestmark = pytest.mark.triton

DEADLINE_MS = 3000
"""Of the ensemble's calls. A service that works answers in a few milliseconds, also on a busy machine within this."""
NEW_USER = 0  # of the stand-in stages: a history without items


@pytest.fixture(scope="module")
def remote_templates(templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ID embedder is the real one; the stages beside it are stand-ins."""
    folder = shutil.copytree(templates, tmp_path_factory.mktemp("remote") / "model_repository")
    shutil.copytree(REPOSITORY / "id_embedder", folder / "id_embedder", dirs_exist_ok=True)
    return folder


class Pair:
    """Starts the service and ensembles that call it, all on the releases of ``world``."""

    def __init__(self, world: Path, templates: Path) -> None:
        self.address = free_endpoint()
        self._common = ["--releases", world / "releases", "--model-repository", templates, "--threads", 1]
        self._world = world
        self.started: list[Service] = []

    def service(self) -> Service:
        return self._start("--only", "id_embedder", "--log-dir", self._world / "ids", endpoint=self.address)

    def ensemble(self) -> Service:
        return self._start(
            "--signals", self._world / "signals", "--log-dir", self._world / "log", "--id-embedder", self.address.grpc,
            "--id-embedder-deadline-ms", DEADLINE_MS, endpoint=free_endpoint(),
        )  # fmt: skip

    def _start(self, *options: object, endpoint: Endpoint) -> Service:
        self.started.append(Service(*self._common, *options, endpoint=endpoint))
        return self.started[-1]


@pytest.fixture
def pair(world: Path, remote_templates: Path) -> Iterator[Pair]:
    point_current(world / "releases", "r1")
    pair = Pair(world, remote_templates)
    yield pair
    for process in (started.process for started in pair.started):
        process.kill()
        process.communicate()


def refusal(ensemble: Service) -> str:
    """What the ensemble says to a user with a history, who cannot be served now."""
    with pytest.raises(InferenceServerException) as caught:
        ensemble.release()
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    return str(caught.value.message())


def test_the_ensemble_outlives_its_service_and_recovers_by_itself(pair: Pair) -> None:
    service = pair.service()
    assert service.ready()["grpc"] == pair.address.grpc
    ensemble = pair.ensemble()
    ensemble.ready()
    assert ensemble.release() == "r1"

    (triton,) = children(service.process.pid)
    os.kill(triton, signal.SIGSTOP)  # the service hangs: connections stay open and nothing is answered
    said = f"id_embedder__r1 of {pair.address.grpc}: no answer within {DEADLINE_MS} ms"
    assert said in refusal(ensemble)
    os.kill(triton, signal.SIGCONT)
    assert answered(ensemble) == "r1"

    os.kill(triton, signal.SIGKILL)
    assert service.end()[0] == 6
    for _ in range(3):
        assert f"id_embedder__r1 of {pair.address.grpc}: UNAVAILABLE" in refusal(ensemble)
    assert ensemble.release(NEW_USER) == "r1", "who has no history needs no ID embedding"

    pair.service().ready()
    assert answered(ensemble) == "r1"


def answered(ensemble: Service, seconds: float = 60.0) -> str:
    """What the ensemble answers once it does. Fails when it still does not after ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        try:
            return ensemble.release()
        except InferenceServerException:
            assert time.monotonic() < end, "the ensemble does not recover"
            time.sleep(0.05)


def test_the_service_is_swapped_first_and_serves_the_earlier_release_until_the_ensembles_follow(
    pair: Pair, world: Path
) -> None:
    service, ensemble = pair.service(), None
    service.ready()
    ensemble = pair.ensemble()
    ensemble.ready()
    point_current(world / "releases", "r2")
    ensemble.process.send_signal(signal.SIGHUP)
    ensemble.wait_for(
        "swap failed, r1 serves on: id_embedder__r2 cannot be loaded: ServerError: "
        f"id_embedder__r2 of {pair.address.grpc}: that server is stopping, or not swapped to this release yet"
    )
    assert ensemble.release() == "r1"

    service.process.send_signal(signal.SIGHUP)
    service.wait_for("serving r2")
    assert ensemble.release() == "r1"
    ensemble.process.send_signal(signal.SIGHUP)
    ensemble.wait_for("serving r2")
    assert ensemble.release() == "r2"

    for process in (ensemble, service):
        process.process.send_signal(signal.SIGTERM)
        status, progress = process.end()
        assert status == 0, progress
        assert "draining" in progress


def test_an_ensemble_does_not_start_without_its_service(pair: Pair) -> None:
    status, progress = pair.ensemble().end()
    assert status == 6, progress
    assert f"id_embedder__r1 of {pair.address.grpc}: UNAVAILABLE" in progress
    assert "Traceback" not in progress
