"""Stages of a real Triton, called from here as the same stages of an ensemble elsewhere call them.

``signal_fetch`` is the stand-in, which makes faults on demand and has optional inputs.
"""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_client

from pinrec_core.contract import SIGNAL_FETCH, TIMEOUT_US
from pinrec_core.deadline import NEVER, Deadline
from pinrec_core.errors import ExpiredError, InvalidRequestError, PinRecError, ServerError
from pinrec_core.stages.base import RemoteServer, StageParameters, Tensors, run_batch
from pinrec_core.stages.packing import decode_request
from pinrec_serving.deployment import Deployment
from pinrec_serving.heartbeat import stage_processes
from pinrec_serving.options import ServingOptions
from pinrec_serving.remote_model import RemoteModel
from pinrec_serving.remote_stage import RemoteStage
from pinrec_serving.runtime import TritonServer
from tests.pinrec_serving.conftest import free_endpoint, manifest, stand_in_release

pytestmark = pytest.mark.triton

MODEL = "signal_fetch__r1"
PARAMETERS = StageParameters(release=None, signals=None, realtime=None, device="cpu", threads=1)


@pytest.fixture(scope="module")
def deployment(server: TritonServer, templates: Path, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    options = ServingOptions(only=SIGNAL_FETCH, signals=tmp_path_factory.mktemp("signals"), threads=1)
    deployment = Deployment(server, templates, options)
    deployment.deploy(release_id="r1", folder=stand_in_release("r1"), dataset=manifest())
    return deployment


@pytest.fixture
def there(deployment: Deployment, server: TritonServer) -> str:
    return server.endpoint.grpc


def stage(address: str, *, name: str = MODEL, deadline_ms: float = 10_000.0) -> RemoteStage:
    """By default with a deadline far above what a call takes, so that a busy machine fails no test."""
    return RemoteStage(
        RemoteModel(SIGNAL_FETCH, name, RemoteServer(address=address, deadline_ms=deadline_ms)), PARAMETERS
    )


def request(user: int = 7, **optional: np.ndarray) -> Tensors:
    return {"user_id": np.array([user]), **optional}


def text(value: bytes) -> np.ndarray:
    return np.array([value], object)


def test_each_request_of_a_batch_gets_its_own_answer_in_order_and_absent_inputs_stay_absent(there: str) -> None:
    """The stand-in takes an absent ``num_items`` for 3, and would take one that is there for its value."""
    counts = [1, None, 40, None, 2]
    rows = [request() if n is None else request(num_items=np.array([n], np.int32)) for n in counts]
    answers = run_batch(stage(there), rows)
    assert [decode_request(answer["packed_request"]).num_items for answer in answers] == [1, 3, 40, 3, 2]
    assert [answer["history_item_key"].shape for answer in run_batch(stage(there), [request(0), request(7)])] == [
        (0,), (2,),
    ]  # fmt: skip


def test_how_long_a_caller_waits_is_passed_on(there: str) -> None:
    rows = [request() | {TIMEOUT_US: np.array([60_000_000])}, request()]
    waits, for_ever = (decode_request(answer["packed_request"]).deadline for answer in run_batch(stage(there), rows))
    assert Deadline.within(0.0).moment < waits.moment < Deadline.within(60.0).moment
    assert for_ever == NEVER


def test_requests_meet_in_a_batch_over_there(there: str) -> None:
    with triton_client.InferenceServerClient(there) as client:
        for _ in range(20):  # the first of a batch may find the stage idle, and be served alone
            assert all(not isinstance(a, PinRecError) for a in stage(there).run([request()] * 32))
        (statistics,) = client.get_inference_statistics(MODEL).model_stats
    assert max(batch.batch_size for batch in statistics.batch_stats) > 1


def test_an_error_over_there_is_that_of_its_request_alone(there: str) -> None:
    faults = [request(surface=text(fault)) for fault in (b"malformed", b"bug", b"expired")]
    rows = [request(), *faults, {"seed": np.array([1])}, request()]
    first, malformed, bug, expired, nobody, last = run_batch(stage(there), rows)
    assert first["history_item_key"].tolist() == last["history_item_key"].tolist()
    for error, message in (
        (malformed, "surface='malformed': expected a known surface"),
        (nobody, "user_id is missing: signal_fetch needs it"),
    ):
        assert type(error) is InvalidRequestError
        assert str(error) == message
    assert (type(expired), str(expired)) == (ExpiredError, "the caller has stopped waiting")
    assert (type(bug), bug.code) == (PinRecError, "INTERNAL")
    assert str(bug).startswith(f"{MODEL} of {there}: internal error (ZeroDivisionError); the server's log has")


def test_a_release_that_is_not_there_is_refused_by_name(there: str) -> None:
    with pytest.raises(ServerError) as caught:
        stage(there, name="signal_fetch__r9")
    assert str(caught.value) == (
        f"signal_fetch__r9 of {there}: that server is starting or stopping, or not swapped to this release yet"
    )


def test_nobody_there_is_an_error_at_the_start() -> None:
    with pytest.raises(ServerError, match=rf"{MODEL} of 127.0.0.1:\d+: UNAVAILABLE: .*Connection refused"):
        stage(free_endpoint().grpc)


def test_one_deadline_holds_for_all_requests_of_a_batch(there: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    late = stage(there, deadline_ms=1e-3)  # shorter than any call over a socket
    answers = run_batch(late, [request(), request()])
    assert [(type(a), str(a)) for a in answers] == [(ServerError, f"{MODEL} of {there}: no answer within 0.001 ms")] * 2
    assert len(caplog.records) == 1, "said once, not by every request"


def test_a_process_that_has_ended_is_a_server_that_is_away_and_comes_back(
    deployment: Deployment, server: TritonServer, caplog: pytest.LogCaptureFixture
) -> None:
    """This test must be the last that uses the server."""

    def answer() -> Tensors | PinRecError:
        return run_batch(before, [request()])[0]

    caplog.set_level(logging.INFO)
    before = stage(server.endpoint.grpc)
    (process,) = stage_processes(server.heartbeats)
    os.kill(process.pid, signal.SIGKILL)
    assert "is not healthy" in str(refused := answer())
    assert type(refused) is ServerError
    assert deployment.process_ended(MODEL, process.pid)
    assert "not swapped to this release yet" in str(refused := answer())
    assert type(refused) is ServerError
    assert deployment.restart(MODEL)
    assert answer()["history_item_key"].shape == (2,)
    said = [record.getMessage() for record in caplog.records if record.name == "pinrec_serving.remote_model"]
    assert [sentence.partition(": ")[0].partition(" of ")[2] for sentence in said] == [
        server.endpoint.grpc, f"{server.endpoint.grpc} answers again",
    ]  # fmt: skip
    server.stop(timeout=0.0)  # it would wait half a minute for the process that had a request when it was killed
    assert "UNAVAILABLE" in str(refused := answer())
    assert type(refused) is ServerError
