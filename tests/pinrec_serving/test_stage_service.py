"""Stages as services of their own beside an ensemble: all are ``pinrec serve``, and the services go away.

The ID embedder is the real one; the others, also ``signal_fetch`` of the second service, are stand-ins.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_client
from tritonclient.utils import InferenceServerException

from pinrec_core.contract import SIGNAL_INGEST, DType
from pinrec_core.release.current import point_current
from pinrec_serving.model_control import input_tensor
from tests.pinrec_serving.conftest import REPOSITORY, free_endpoint
from tests.pinrec_serving.serve_process import Service

pytestmark = pytest.mark.triton

DEADLINE_MS = 3000
"""Of the ensemble's calls. A service that works answers in a few milliseconds, also on a busy machine within this."""
NEW_USER = 0  # of the stand-in stages: a history without items


@pytest.fixture(scope="module")
def remote_templates(templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(templates, tmp_path_factory.mktemp("remote") / "model_repository")
    shutil.copytree(REPOSITORY / "id_embedder", folder / "id_embedder", dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def start_service(world: Path, remote_templates: Path) -> Iterator[Callable[[str], Service]]:
    """Starts a stage on its own, each time at the same address."""
    endpoints, started = {"id_embedder": free_endpoint(), "signal_fetch": free_endpoint()}, []

    def start(stage: str) -> Service:
        signals = ["--signals", world / "signals"] if stage == "signal_fetch" else []
        started.append(
            Service(
                "--releases", world / "releases", "--only", stage, *signals, "--model-repository", remote_templates,
                "--log-dir", world / stage, "--threads", 1, endpoint=endpoints[stage],
            )
        )  # fmt: skip
        return started[-1]

    yield start
    for service in started:
        service.process.kill()
        service.process.communicate()


@pytest.fixture(scope="module")
def services(start_service: Callable[[str], Service], world: Path) -> list[Service]:
    """The ID embedder and the signals, each on its own."""
    point_current(world / "releases", "r1")
    services = [start_service("id_embedder"), start_service("signal_fetch")]
    for service in services:
        assert service.ready()["grpc"] == service.endpoint.grpc
    return services


@pytest.fixture(scope="module")
def ensemble(services: list[Service], world: Path, remote_templates: Path) -> Iterator[Service]:
    ids, signals = services
    ensemble = Service(
        "--releases", world / "releases", "--model-repository", remote_templates, "--log-dir", world / "log",
        "--threads", 1, "--remote", f"id_embedder={ids.endpoint.grpc},{DEADLINE_MS}",
        "--remote", f"signal_fetch={signals.endpoint.grpc},{DEADLINE_MS}", endpoint=free_endpoint(),
    )  # fmt: skip
    ensemble.ready()
    yield ensemble
    ensemble.process.kill()
    ensemble.process.communicate()


def refusal(ensemble: Service, user: int = 7) -> str:
    """What the ensemble says to a user who cannot be served now, by default one with a history."""
    with pytest.raises(InferenceServerException) as caught:
        ensemble.release(user)
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


def log_event(service: Service) -> int:
    """How many events of one the service stored. Raises ``InferenceServerException``."""
    texts = {DType.BYTES: (b"e1", object)}
    inputs = [
        input_tensor(spec.name, np.array([[value]], dtype))
        for spec in SIGNAL_INGEST.inputs
        for value, dtype in [texts.get(spec.dtype, (1, np.int64))]
    ]
    with triton_client.InferenceServerClient(service.endpoint.grpc) as client:
        return int(client.infer(SIGNAL_INGEST.name, inputs).as_numpy("stored")[0, 0])


def test_the_services_are_swapped_first_and_serve_the_earlier_release_until_the_ensemble_follows(
    services: list[Service], ensemble: Service, world: Path
) -> None:
    def swap(server: Service) -> None:
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("serving r2")
        assert ensemble.release() == "r1" or server is ensemble

    ids, signals = services
    assert ensemble.release() == "r1"
    point_current(world / "releases", "r2")
    swap(signals)
    ensemble.process.send_signal(signal.SIGHUP)
    ensemble.wait_for(
        "swap failed, r1 serves on: id_embedder__r2 cannot be loaded: ServerError: "
        f"id_embedder__r2 of {ids.endpoint.grpc}: that server is starting or stopping, or not swapped to this release"
    )
    assert ensemble.release() == "r1"
    swap(ids)
    swap(ensemble)
    assert ensemble.release() == "r2"


def test_events_are_written_where_the_signals_are(services: list[Service], ensemble: Service) -> None:
    _, signals = services
    assert log_event(signals) == 1
    with pytest.raises(InferenceServerException) as caught:
        log_event(ensemble)
    assert caught.value.status() in ("StatusCode.NOT_FOUND", "StatusCode.UNAVAILABLE")  # without a front, with one


def test_the_ensemble_outlives_its_services_and_recovers_by_itself(
    services: list[Service], ensemble: Service, start_service: Callable[[str], Service]
) -> None:
    """It follows the swap, and must be the last: the services of the module are not there after it."""
    ids, signals = services
    for service, stage in ((ids, "id_embedder"), (signals, "signal_fetch")):
        name = f"{stage}__r2 of {service.endpoint.grpc}"
        triton = service.child("tritonserver")
        os.kill(triton, signal.SIGSTOP)  # the service hangs: connections stay open and nothing is answered
        assert f"{name}: no answer within {DEADLINE_MS} ms" in refusal(ensemble)
        os.kill(triton, signal.SIGCONT)
        assert answered(ensemble) == "r2"

        os.kill(triton, signal.SIGKILL)
        assert service.end()[0] == 6
        for _ in range(3):
            assert f"{name}: UNAVAILABLE" in refusal(ensemble)
        if stage == "id_embedder":
            assert ensemble.release(NEW_USER) == "r2", "who has no history needs no ID embedding"
        else:
            assert refusal(ensemble, NEW_USER)
        assert ensemble.model_is_ready("pinrec"), "a restart would not help"

        again = start_service(stage)
        again.ready()
        assert answered(ensemble) == "r2"

    again.process.send_signal(signal.SIGTERM)
    status, progress = again.end()
    assert status == 0, progress
    assert "draining" in progress
    assert refusal(ensemble)
