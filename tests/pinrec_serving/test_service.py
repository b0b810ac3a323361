"""What a service does about stages and swaps that fail; the rest is seen in ``test_serve_command``."""

from __future__ import annotations

import errno
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pinrec_core.errors import ServerError
from pinrec_serving.changes import Changes
from pinrec_serving.service import Event, RestartDue, _Service
from pinrec_serving.service_metrics import ServiceMetrics
from pinrec_serving.supervision import RestartPolicy, StageEnded

STARTS_PROGRAMS = """
import socket, subprocess, threading
from pinrec_serving.model_control import triton
from pinrec_serving.runtime import end_with_parent

with socket.create_server(("127.0.0.1", 0)) as silent:
    client = triton.InferenceServerClient(f"127.0.0.1:{silent.getsockname()[1]}")
    threading.Thread(target=client.load_model, args=("generator__r2",), daemon=True).start()
    for _ in range(300):
        subprocess.run(["true"], check=True, preexec_fn=end_with_parent)
"""

WATCH: Any = SimpleNamespace(alive=True)


class Broken:
    """In place of server and deployment: a stage that serves, and whose loading fails every time."""

    attempts = 0
    ready = False
    release_id = "r1"
    log_file = Path("triton.log")

    def check_alive(self) -> None: ...

    def process_ended(self, stage: str, pid: int) -> bool:
        return True

    def restart(self, stage: str) -> bool:
        self.attempts += 1
        raise ServerError("model.safetensors: not found")


class Serving:
    """A service with ``deployment`` in place of the server too, and what it says."""

    def __init__(self, deployment: Any, changes: Changes) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.said: list[str] = []
        self.metrics = ServiceMetrics()
        self.service = _Service(
            deployment, None, deployment, changes, self.events, self.choose, self.said.append, self.metrics
        )

    def choose(self) -> Path:
        return Path("releases/r1")


@pytest.fixture
def changes() -> Iterator[Changes]:
    with Changes() as changes:
        yield changes


def test_a_stage_that_cannot_be_loaded_again_ends_the_service(
    changes: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pinrec_serving.service.RestartPolicy", lambda: RestartPolicy(most=3, window=60.0, longest_pause=0.01)
    )
    broken = Broken()
    serving = Serving(broken, changes)
    serving.service.stage_ended(StageEnded("generator__r1", 7, "has ended"))
    with pytest.raises(ServerError, match=r"generator__r1 does not stay alive: 3 restarts within 60 s did not help"):
        serving.service.run_until_stopped(WATCH)
    said = serving.said
    assert broken.attempts == 3
    assert said[0] == "generator__r1: process 7 has ended; not ready"
    assert said.count("loading generator__r1 again failed: model.safetensors: not found") == 3


def test_a_restart_does_not_hold_up_a_stop(changes: Changes) -> None:
    class Slow(Broken):
        begun, stopped = threading.Event(), threading.Event()

        def restart(self, stage: str) -> bool:
            self.begun.set()
            self.stopped.wait()
            return super().restart(stage)

    slow = Slow()
    serving = Serving(slow, changes)
    stopped = threading.Thread(target=serving.service.run_until_stopped, args=(WATCH,))
    stopped.start()
    serving.events.put(RestartDue("generator__r1"))
    assert slow.begun.wait(10)
    serving.events.put(signal.SIGTERM)
    stopped.join(10)
    assert not stopped.is_alive()
    changes.stop()
    slow.stopped.set()


def test_a_service_without_a_watch_ends(changes: Changes) -> None:
    watch: Any = SimpleNamespace(alive=False)
    with pytest.raises(ServerError, match="looks after the stages has ended"):
        Serving(Broken(), changes).service.run_until_stopped(watch)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), ValueError("a bug")])
def test_a_swap_that_fails_in_whatever_way_is_only_reported(
    changes: Changes, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(folder: Path) -> None:
        raise error

    monkeypatch.setattr("pinrec_serving.service.open_manifest", fail)
    serving = Serving(Broken(), changes)
    serving.service._swap()
    assert serving.said == [f"swap failed, r1 serves on: {error}"]
    assert serving.metrics.registry.get_sample_value("pinrec_swaps_total", {"result": "failed"}) == 1
    assert ("Traceback" in caplog.text) == isinstance(error, ValueError)


def test_a_release_that_serves_is_not_verified_again(changes: Changes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pinrec_serving.service.open_manifest", lambda folder: SimpleNamespace(release_id="r1"))
    monkeypatch.setattr("pinrec_serving.service.verify_files", lambda folder: pytest.fail("it is read"))
    serving = Serving(Broken(), changes)
    serving.service._swap()
    assert serving.said == ["serving r1 already"]


@pytest.mark.parametrize(("ready", "state"), [(True, "ready"), (False, "not ready yet, for another stage is away")])
def test_what_is_said_of_a_restart_is_true(changes: Changes, ready: bool, state: str) -> None:
    deployment = SimpleNamespace(ready=ready, restart=lambda stage: True)
    serving = Serving(deployment, changes)
    serving.service._restart("generator__r1")
    (said,) = serving.said
    assert said.startswith("generator__r1 was loaded again in")
    assert said.endswith(f" s; {state}")


def test_programs_can_be_started_while_triton_loads_a_model() -> None:
    """Such as HAProxy, again."""
    done = subprocess.run([sys.executable, "-c", STARTS_PROGRAMS], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
