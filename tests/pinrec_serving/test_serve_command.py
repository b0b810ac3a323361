"""``pinrec serve`` as its users and a supervisor see it: a process with output, signals and exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from pinrec_cli.tuning_runs import measuring
from pinrec_core.release.current import point_current
from pinrec_core.release.format import Release
from pinrec_serving.installation import TritonSource
from pinrec_serving.processes import has_ended
from pinrec_serving.supervision import INTERVAL
from pinrec_serving.tuning import TUNING_FILE, Machine, Setting, StageTuning, Tuning, save_tuning
from tests.pinrec_serving.conftest import free_endpoint
from tests.pinrec_serving.serve_process import Service, children

pytestmark = pytest.mark.triton

SEVERAL = Setting(threads=1, stages={"generator": StageTuning(instances=2, queue_delay_us=500)})
SLEEPING = "exec sleep 600 > /dev/null 2>&1"
"""A command that does not keep the service's output open, should it outlive the service."""


@pytest.fixture
def service(world: Path, templates: Path) -> Iterator[Service]:
    point_current(world / "releases", "r1")
    started = Service(
        "--releases", world / "releases", "--signals", world / "signals", "--model-repository", templates,
        "--log-dir", world / "log", "--log-format", "json", endpoint=free_endpoint(),
    )  # fmt: skip
    yield started
    started.process.kill()
    started.process.communicate()


def test_serve_swap_drain_stop(service: Service, world: Path) -> None:
    said = service.ready()
    assert said["release"] == service.release() == "r1"
    assert said["grpc"] == service.endpoint.grpc
    with pytest.raises(InferenceServerException, match="request id 4f0c"):
        service.release(surface="bug", request_id="4f0c")  # it is not traced: that must not be an error of its own

    point_current(world / "releases", "damaged")
    service.process.send_signal(signal.SIGHUP)
    service.wait_for("swap failed, r1 serves on: generator__damaged cannot be loaded")
    assert service.release() == "r1"

    point_current(world / "releases", "r2")
    service.process.send_signal(signal.SIGHUP)
    service.wait_for("serving r2")
    assert service.release() == "r2"
    service.process.send_signal(signal.SIGHUP)
    service.wait_for("serving r2 already")
    with urllib.request.urlopen(service.endpoint.metrics) as answer:
        metrics = answer.read().decode()
    assert 'pinrec_serving_since_timestamp_seconds{release="r2"}' in metrics
    assert 'pinrec_swaps_total{result="ok"} 1.0' in metrics
    assert 'pinrec_swaps_total{result="failed"} 1.0' in metrics
    assert 'pinrec_requests_total{release="r1",result="internal",stage="signal_fetch"} 1.0' in metrics
    assert (
        'pinrec_requests_total{release="r2",result="ok",stage="faiss_retrieval"} 2.0' in metrics
    )  # and the smoke test
    assert 'nv_inference_count{model="generator",release="r2",version="1"} 2' in metrics
    assert 'model="generator__' not in metrics

    service.process.send_signal(signal.SIGTERM)
    status, progress = service.end()
    assert status == 0, progress
    assert "draining" in progress
    assert "Traceback" not in progress
    assert all(json.loads(line)["stage"] == "owner" for line in progress.splitlines())
    records = [json.loads(line) for line in (world / "log" / "triton.log").read_text().splitlines() if line[:1] == "{"]
    (failed,) = (record for record in records if record["level"] == "error")
    assert (failed["stage"], failed["release"], failed["request_id"]) == ("signal_fetch", "r1", "4f0c")
    assert "ZeroDivisionError" in failed["traceback"]


def test_when_triton_dies_the_service_ends_with_the_reason(service: Service) -> None:
    service.ready()
    os.kill(service.child("tritonserver"), signal.SIGKILL)
    status, progress = service.end()
    assert status == 6, progress
    last = json.loads(progress.splitlines()[-1])
    assert last["level"] == "critical"
    assert "Triton ended with status -9" in last["message"]
    assert "Traceback" not in progress


def test_a_killed_service_leaves_no_process(service: Service) -> None:
    service.ready()
    left = children(service.process.pid)
    service.process.kill()
    service.end()
    while not all(has_ended(pid) for pid in left):
        time.sleep(0.1)


@pytest.mark.parametrize("stage", ["generator__r1", "signal_ingest"])
def test_a_stage_that_is_killed_is_out_of_service_until_it_is_loaded_again(service: Service, stage: str) -> None:
    service.ready()
    triton = service.child("tritonserver")
    entrance = "pinrec" if stage != "signal_ingest" else stage
    assert service.model_is_ready(entrance)
    os.kill(service.child(f"/{stage}/", of=triton), signal.SIGKILL)
    service.wait_for("has ended; not ready")
    assert not service.model_is_ready(entrance)  # a new process takes longer to start than this question
    service.wait_for(f"{stage} was loaded again in")
    assert service.model_is_ready(entrance)
    assert service.release() == "r1"
    service.process.send_signal(signal.SIGTERM)
    status, progress = service.end()
    assert status == 0, progress
    assert "Traceback" not in progress


def test_one_of_two_processes_of_a_stage_is_killed_and_both_are_back_after_one_restart(
    world: Path, templates: Path
) -> None:
    point_current(world / "releases", "r1")
    service = Service(
        "--releases", world / "releases", "--signals", world / "signals", "--model-repository", templates,
        "--log-dir", world / "log", "--instances", "generator=2", endpoint=free_endpoint(),
    )  # fmt: skip
    try:
        service.ready()
        triton = service.child("tritonserver")
        before = service.children("/generator__r1/", of=triton)
        os.kill(before[0], signal.SIGKILL)
        service.wait_for("generator__r1 was loaded again in")
        while not has_ended(before[1]):
            time.sleep(0.1)
        time.sleep(3 * INTERVAL)  # the end of the other one has been seen
        assert service.release() == "r1"
        assert len(service.children("/generator__r1/", of=triton)) == 2
    finally:
        service.process.send_signal(signal.SIGTERM)
        status, progress = service.end()
    assert status == 0
    assert progress.count("has ended") == progress.count("was loaded again") == 1


def test_a_swap_that_takes_long_holds_up_neither_the_front_nor_a_stop(service: Service, world: Path) -> None:
    service.ready()
    point_current(world / "releases", "endless")
    service.process.send_signal(signal.SIGHUP)
    service.wait_for("loading generator__endless")
    os.kill(service.child("haproxy"), signal.SIGKILL)
    service.wait_for("the front ended with status -9; it is started again")
    release = ""
    while not release:
        with suppress(InferenceServerException):
            release = service.release()
    assert release == "r1"
    triton = service.child("tritonserver")
    stages = children(triton)
    service.process.send_signal(signal.SIGTERM)
    status, progress = service.end()
    assert status == 0, progress
    assert "draining" in progress
    assert "Traceback" not in progress
    while not all(has_ended(pid) for pid in [triton, *stages]):
        time.sleep(0.1)


def test_a_stage_that_hangs_is_ended_and_loaded_again(world: Path, templates: Path) -> None:
    point_current(world / "releases", "r1")
    service = Service(
        "--releases", world / "releases", "--signals", world / "signals", "--model-repository", templates,
        "--log-dir", world / "log", "--stall-timeout", 2, endpoint=free_endpoint(),
    )  # fmt: skip
    try:
        service.ready()
        with pytest.raises(InferenceServerException):
            service.release(surface="stuck", timeout=20.0)
        service.wait_for("signal_fetch__r1 was loaded again in")
        assert any("worked on one batch for" in line for line in service.progress)
        assert service.release() == "r1"
    finally:
        service.process.send_signal(signal.SIGTERM)
        assert service.end()[0] == 0


def test_a_swap_that_is_asked_for_during_the_start_follows_it(world: Path, templates: Path) -> None:
    point_current(world / "releases", "r1")
    service = Service(
        "--releases", world / "releases", "--signals", world / "signals", "--model-repository", templates,
        "--log-dir", world / "log", endpoint=free_endpoint(),
    )  # fmt: skip
    try:
        service.wait_for("starting Triton")
        point_current(world / "releases", "r2")
        service.process.send_signal(signal.SIGHUP)
        service.wait_for("serving r2")
        assert service.release() == "r2"
    finally:
        service.process.send_signal(signal.SIGTERM)
        assert service.end()[0] == 0


def test_a_command_ends_the_service_and_its_exit_code_is_the_service_s(world: Path, templates: Path) -> None:
    service = stage_alone(world, templates, ["sh", "-c", "exit 7"])
    status, progress = service.end()
    assert status == 7, progress
    assert "stopping Triton" in progress


def test_a_command_does_not_outlive_its_service(world: Path, templates: Path, tmp_path: Path) -> None:
    service = stage_alone(world, templates, ["sh", "-c", f"touch {tmp_path}/begun; {SLEEPING}"])
    while not (tmp_path / "begun").exists():
        time.sleep(0.05)
    command = service.child("sleep")
    service.process.send_signal(signal.SIGTERM)
    status, progress = service.end()
    assert status == 0, progress
    assert has_ended(command)


def test_ctrl_c_drains_although_it_ends_the_command_too(world: Path, templates: Path) -> None:
    """A terminal sends SIGINT to both; the end of the command is no second signal."""
    point_current(world / "releases", "r1")
    slow = world / "signals" / "slow"
    slow.unlink(missing_ok=True)
    service = Service(
        "--releases", world / "releases", "--signals", world / "signals", "--model-repository", templates,
        "--log-dir", world / "log", endpoint=free_endpoint(), command=["sh", "-c", SLEEPING],
    )  # fmt: skip
    service.ready()
    with ThreadPoolExecutor(1) as caller:
        answer = caller.submit(service.release, surface="slow")
        while not slow.exists():
            time.sleep(0.05)
        command = service.child("sleep")
        service.process.send_signal(signal.SIGINT)
        service.wait_for("draining")
        os.kill(command, signal.SIGINT)
        assert answer.result() == "r1"
    status, progress = service.end()
    assert status == 130, progress
    assert "stopping Triton" in progress
    assert "Traceback" not in progress


def stage_alone(world: Path, templates: Path, command: list[str]) -> Service:
    """The smallest service."""
    return Service(
        "--release", world / "releases" / "r1", "--only", "id_embedder", "--model-repository", templates,
        "--log-dir", world / "log", endpoint=free_endpoint(), command=command,
    )  # fmt: skip


def test_a_folder_for_logs_that_somebody_else_has_laid_is_refused(world: Path, tmp_path: Path) -> None:
    endpoint = free_endpoint()
    (tmp_path / f"pinrec-serve-{endpoint.grpc_port}").symlink_to(world)
    service = Service("--release", world / "releases" / "r1", "--signals", world / "signals", endpoint=endpoint,
                      temporary=tmp_path)  # fmt: skip
    status, progress = service.end()
    assert status == 2, progress
    assert f"pinrec-serve-{endpoint.grpc_port}: expected a folder of this user" in " ".join(progress.split())
    assert "--log-dir" in progress


@pytest.mark.parametrize("tuned", [Setting(threads=1), SEVERAL])
def test_a_setting_is_measured_with_a_real_server(world: Path, templates: Path, dataset: Path, tuned: Setting) -> None:
    shutil.copytree(dataset / "signals" / "sequences", world / "signals" / "sequences", dirs_exist_ok=True)
    measure = measuring(
        Release.open(world / "releases" / "r1"), world / "signals", templates=templates,
        device="cpu", clients=4, seconds=0.3, source=TritonSource.AUTO,
    )  # fmt: skip
    assert measure(tuned) > 0


def test_a_tuning_of_another_machine_is_one_warning_and_its_service_starts(world: Path, templates: Path) -> None:
    point_current(world / "releases", "r1")
    tuning = Tuning(
        machine=Machine(processor="Z80", cores=1), release="r1", clients=1, requests_per_second=1.0,
        default_requests_per_second=1.0, setting=Setting(threads=1),
    )  # fmt: skip
    save_tuning(tuning, world / "releases" / TUNING_FILE)
    started = Service(
        "--releases", world / "releases", "--signals", world / "signals", "--model-repository", templates,
        "--log-dir", world / "log", endpoint=free_endpoint(),
    )  # fmt: skip
    try:
        assert started.ready()["release"] == "r1"
    finally:
        (world / "releases" / TUNING_FILE).unlink()
        started.process.send_signal(signal.SIGTERM)
        status, progress = started.end()
    assert status == 0
    assert progress.count("tuned for Z80, 1 cores") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--signals", "signals"], 2, "exactly one of --release, --releases"),
        (["--release", "nowhere", "--signals", "signals"], 4, "nowhere: not a release"),
        (["--releases", "nowhere", "--signals", "signals"], 4, "expected the id of a release"),
        (["--release", "releases/r1"], 2, "--signals is missing"),
        (["--release", "releases/r1", "--only", "ranker"], 2, "--only='ranker': expected one of signal_fetch, id_emb"),
        (["--release", "releases/r1", "--only", "signal_fetch"], 2, "--signals is missing"),
        (["--release", "releases/r1", "--only", "id_embedder", "--batch-only"], 2, "where signal_fetch is elsewhere"),
        (["--release", "releases/r1", "--only", "generator", "--remote", "generator=gpu:8001"], 2, "none with --only"),
        (["--release", "releases/r1", "--only", "generator", "--front", "haproxy"], 2, "--only, which has no front"),
        (["--release", "releases/r1", "--signals", "signals", "--remote", "generator=gpu"], 2, "expected HOST:PORT"),
        (
            ["--release", "releases/r1", "--signals", "signals", "--remote", "ranker=gpu:8001"],
            2,
            "remote stage='ranker'",
        ),
        (["--release", "releases/r1", "--signals", "signals", "--remote", "gpu:8001"], 2, "expected STAGE=HOST:PORT"),
        (["--release", "releases/r1", "--signals", "nowhere"], 3, "expected a prepared dataset's manifest"),
        (["--release", "releases/r1", "--signals", "."], 3, "expected the folder `signals` within it"),
        (["--release", "releases/r1", "--signals", "signals", "--triton", "moon"], 2, "image, wheel"),
        (["--release", "releases/r1", "--signals", "signals", "--log-format", "xml"], 2, "text, json"),
        (["--release", "releases/r1", "--signals", "signals", "--otlp", "127.0.0.1:4318"], 2, "http://"),
        (["--release", "releases/r1", "--signals", "signals", "--instances", "ranker=2"], 2, "ranker"),
        (["--release", "releases/r1", "--signals", "signals", "--model-repository", "nowhere"], 6, "config.pbtxt"),
        (["--release", "releases/damaged", "--signals", "signals"], 6, "sha256 does not fit"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_sentence(
    world: Path, templates: Path, arguments: list[str], status: int, sentence: str
) -> None:
    local = world / "model_repository"
    if not local.exists():
        shutil.copytree(templates, local)
    paths = {".", "signals", "nowhere", "releases", "releases/r1", "releases/damaged"}
    absolute = [str(world / a) if a in paths else a for a in arguments]
    if "--model-repository" not in arguments:
        absolute += ["--model-repository", str(local)]
    service = Service(*absolute, "--log-dir", world / "log", endpoint=free_endpoint())
    got, progress = service.end()
    assert got == status, progress
    assert sentence in progress
    assert "Traceback" not in progress
