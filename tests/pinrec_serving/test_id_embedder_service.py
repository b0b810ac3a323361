"""The ID embedder as a service of its own beside an ensemble: both are ``pinrec serve``, and the service goes away."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as triton_client
from tritonclient.utils import InferenceServerException

from pinrec_core.release.current import point_current
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


@pytest.fixture(scope="module")
def start_service(world: Path, remote_templates: Path) -> Iterator[Callable[[], Service]]:
    """Starts the ID embedder on its own, each time at the same address."""
    endpoint, started = free_endpoint(), []

    def start() -> Service:
        started.append(
            Service(
                "--releases", world / "releases", "--only", "id_embedder", "--model-repository", remote_templates,
                "--log-dir", world / "ids", "--threads", 1, endpoint=endpoint,
            )
        )  # fmt: skip
        return started[-1]

    yield start
    for service in started:
        service.process.kill()
        service.process.communicate()


@pytest.fixture(scope="module")
def service(start_service: Callable[[], Service], world: Path) -> Service:
    point_current(world / "releases", "r1")
    service = start_service()
    assert service.ready()["grpc"] == service.endpoint.grpc
    return service


@pytest.fixture(scope="module")
def ensemble(service: Service, world: Path, remote_templates: Path) -> Iterator[Service]:
    ensemble = Service(
        "--releases", world / "releases", "--signals", world / "signals", "--model-repository", remote_templates,
        "--log-dir", world / "log", "--threads", 1, "--id-embedder", service.endpoint.grpc,
        "--id-embedder-deadline-ms", DEADLINE_MS, endpoint=free_endpoint(),
    )  # fmt: skip
    ensemble.ready()
    yield ensemble
    ensemble.process.kill()
    ensemble.process.communicate()


def refusal(ensemble: Service) -> str:
    """What the ensemble says to a user with a history, who cannot be served now."""
    with pytest.raises(InferenceServerException) as caught:
        ensemble.release()
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    return str(caught.value.message())


def answered(ensemble: Service, seconds: float = 60.0) -> str:
    """What the ensemble answers once it does. Fails when it still does not after ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        try:
            return ensemble.release()
        except InferenceServerException:
            assert time.monotonic() < end, "the ensemble does not recover"
            time.sleep(0.05)


def test_the_service_is_swapped_first_and_serves_the_earlier_release_until_the_ensemble_follows(
    service: Service, ensemble: Service, world: Path
) -> None:
    assert ensemble.release() == "r1"
    point_current(world / "releases", "r2")
    ensemble.process.send_signal(signal.SIGHUP)
    ensemble.wait_for(
        "swap failed, r1 serves on: id_embedder__r2 cannot be loaded: ServerError: "
        f"id_embedder__r2 of {service.endpoint.grpc}: that server is stopping, or not swapped to this release yet"
    )
    assert ensemble.release() == "r1"
    service.process.send_signal(signal.SIGHUP)
    service.wait_for("serving r2")
    assert ensemble.release() == "r1"
    ensemble.process.send_signal(signal.SIGHUP)
    ensemble.wait_for("serving r2")
    assert ensemble.release() == "r2"


def test_the_ensemble_outlives_its_service_and_recovers_by_itself(
    service: Service, ensemble: Service, start_service: Callable[[], Service]
) -> None:
    """It follows the swap, and must be the last: the service of the module is not there after it."""
    (triton,) = children(service.process.pid)
    os.kill(triton, signal.SIGSTOP)  # the service hangs: connections stay open and nothing is answered
    assert f"id_embedder__r2 of {service.endpoint.grpc}: no answer within {DEADLINE_MS} ms" in refusal(ensemble)
    os.kill(triton, signal.SIGCONT)
    assert answered(ensemble) == "r2"

    os.kill(triton, signal.SIGKILL)
    assert service.end()[0] == 6
    for _ in range(3):
        assert f"id_embedder__r2 of {service.endpoint.grpc}: UNAVAILABLE" in refusal(ensemble)
    assert ensemble.release(NEW_USER) == "r2", "who has no history needs no ID embedding"
    with triton_client.InferenceServerClient(ensemble.endpoint.grpc) as client:
        assert client.is_model_ready("pinrec"), "a restart would not help"

    again = start_service()
    again.ready()
    assert answered(ensemble) == "r2"

    again.process.send_signal(signal.SIGTERM)
    status, progress = again.end()
    assert status == 0, progress
    assert "draining" in progress
    assert refusal(ensemble)
