"""The ID embedder served alone by a real Triton, and called from here as the stage of an ensemble calls it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_client

from id_embedder.remote_stage import RemoteIdEmbedderStage
from id_embedder.stage import IdEmbedderStage
from pinrec_core.contract import ID_EMBEDDER
from pinrec_core.errors import ConfigError, ServerError
from pinrec_core.stages.base import RemoteServer, StageParameters
from pinrec_serving.deployment import Deployment
from pinrec_serving.options import ServingOptions
from pinrec_serving.remote_model import RemoteModel
from pinrec_serving.runtime import TritonServer
from tests.pinrec_serving.conftest import REPOSITORY, free_endpoint, manifest

pytestmark = pytest.mark.triton

DEADLINE_MS = 10_000.0
"""Far above what a call takes, so that a busy machine fails no test."""


@pytest.fixture(scope="module")
def deployment(server: TritonServer, world: Path) -> Deployment:
    deployment = Deployment(server, REPOSITORY, ServingOptions(only=ID_EMBEDDER, threads=1))
    deploy(deployment, world, "r1")
    return deployment


@pytest.fixture
def remote(deployment: Deployment, server: TritonServer) -> Callable[[str], RemoteIdEmbedderStage]:
    """The stage of a release, whose tables are on the server."""
    there = RemoteServer(address=server.endpoint.grpc, deadline_ms=DEADLINE_MS)
    return lambda release: RemoteIdEmbedderStage(
        RemoteModel(ID_EMBEDDER, f"id_embedder__{release}", there), max_history=24
    )


def deploy(deployment: Deployment, world: Path, release_id: str) -> None:
    deployment.deploy(release_id=release_id, folder=world / "releases" / release_id, dataset=manifest())


def histories(rng: np.random.Generator) -> list[np.ndarray]:
    """Empty and long ones, with keys that come back within a history and in another one."""
    known = np.array([0, 1, 7, 2**63 - 1, -(2**63)], np.int64)
    return [np.concatenate([known, rng.integers(0, 2000, T)]) if T else known[:0] for T in (0, 1, 24, 500, 0)]


def test_embeddings_are_those_of_the_stage_in_process_bit_for_bit(
    remote: Callable[[str], RemoteIdEmbedderStage], world: Path
) -> None:
    here = IdEmbedderStage(
        StageParameters(release=world / "releases" / "r1", signals=None, realtime=None, device="cpu", threads=1)
    )
    rows = histories(np.random.default_rng(0))
    expected, got = here.run(rows), remote("r1").run(rows)
    for a, b in zip(expected, got, strict=True):
        a, b = a["history_id_embedding"], b["history_id_embedding"]
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.tobytes() == b.tobytes()
    assert np.any(expected[2]["history_id_embedding"]), "embeddings of zeros would agree in any case"


def test_a_batch_is_one_request_of_the_service(
    remote: Callable[[str], RemoteIdEmbedderStage], server: TritonServer
) -> None:
    def requests() -> int:
        with triton_client.InferenceServerClient(server.endpoint.grpc) as client:
            (statistics,) = client.get_inference_statistics("id_embedder__r1").model_stats
        return statistics.inference_count

    stage = remote("r1")
    before = requests()
    stage.run(histories(np.random.default_rng(1)))
    assert requests() - before == 1


def test_a_release_that_the_service_does_not_have_is_refused_by_name(
    remote: Callable[[str], RemoteIdEmbedderStage], server: TritonServer
) -> None:
    with pytest.raises(ServerError) as caught:
        remote("r9")
    assert str(caught.value) == (
        f"id_embedder__r9 of {server.endpoint.grpc}: "
        "that server is starting or stopping, or not swapped to this release yet"
    )


def test_nobody_there_is_said_at_once_and_not_at_the_deadline() -> None:
    model = RemoteModel(ID_EMBEDDER, "id_embedder__r1", RemoteServer(address=free_endpoint().grpc, deadline_ms=1e9))
    with pytest.raises(ServerError, match=r"id_embedder__r1 of 127.0.0.1:\d+: UNAVAILABLE: .*Connection refused"):
        model({"history_item_key": np.array([1])})


def test_a_deadline_that_passes_is_named(remote: Callable[[str], RemoteIdEmbedderStage], server: TritonServer) -> None:
    there = RemoteServer(address=server.endpoint.grpc, deadline_ms=1e-3)  # shorter than any call over a socket
    model = RemoteModel(ID_EMBEDDER, "id_embedder__r1", there)
    with pytest.raises(ServerError, match=r"id_embedder__r1 of 127.0.0.1:\d+: no answer within 0.001 ms"):
        model({"history_item_key": np.arange(100_000)})


def test_the_release_before_is_served_until_the_next_swap_and_draining_refuses_both(
    remote: Callable[[str], RemoteIdEmbedderStage], deployment: Deployment, world: Path
) -> None:
    """This test must be the last that uses the deployment, since nothing is served after it."""
    row = [np.array([7])]
    first = remote("r1")
    deploy(deployment, world, "r2")
    assert deployment.release_id == "r2"
    assert first.run(row)
    second = remote("r2")
    deploy(deployment, world, "r3")
    assert second.run(row)
    with pytest.raises(ServerError, match="not swapped to this release"):
        first.run(row)
    deploy(deployment, world, "r2")  # back again: it is still loaded, and r3 becomes the one before
    assert deployment.release_id == "r2"
    third = remote("r3")
    assert deployment.drain(timeout=30.0)
    for stage in (second, third):
        with pytest.raises(ServerError, match="not swapped to this release"):
            stage.run(row)


@pytest.mark.parametrize("address", ["localhost", ":8001", "host:", "host:port"])
def test_an_address_without_host_or_port_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=f"address='{address}': expected HOST:PORT"):
        RemoteServer(address=address, deadline_ms=20.0)


@pytest.mark.parametrize("deadline", ["0", "-1", "nan", "inf", "soon", ""])
def test_a_deadline_is_a_number_above_zero(deadline: str) -> None:
    with pytest.raises(ConfigError, match="deadline_ms="):
        RemoteServer.parse(f"localhost:8001,{deadline}")
