"""What a service does about a stage that cannot be brought back; the rest is seen in ``test_serve_command``."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest

from pinrec_core.errors import ServerError
from pinrec_serving.service import Event, RestartDue, _Service
from pinrec_serving.service_metrics import ServiceMetrics
from pinrec_serving.supervision import RestartPolicy, StageEnded


class Broken:
    """In place of server and deployment: a stage that serves, and whose loading fails every time."""

    attempts = 0
    ready = False
    log_file = Path("triton.log")

    def check_alive(self) -> None: ...

    def process_ended(self, stage: str) -> bool:
        return True

    def restart(self, stage: str) -> bool:
        self.attempts += 1
        raise ServerError("model.safetensors: not found")


def test_a_stage_that_cannot_be_loaded_again_ends_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pinrec_serving.service.RestartPolicy", lambda: RestartPolicy(most=3, window=60.0, longest_pause=0.01)
    )
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    said: list[str] = []
    broken: Any = Broken()
    service = _Service(broken, None, broken, events, lambda: Path("releases/r1"), said.append, ServiceMetrics())
    service.stage_ended(StageEnded("generator__r1", 7, "has ended"))
    with pytest.raises(ServerError, match=r"generator__r1 does not stay alive: 3 restarts within 60 s did not help"):
        service.run_until_stopped()
    assert broken.attempts == 3
    assert said[0] == "generator__r1: process 7 has ended; not ready"
    assert said.count("loading generator__r1 again failed: model.safetensors: not found") == 3


def test_a_restart_that_is_due_does_not_hold_up_a_stop() -> None:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    broken: Any = Broken()
    service = _Service(broken, None, broken, events, lambda: Path("releases/r1"), print, ServiceMetrics())
    events.put(RestartDue("generator__r1"))
    events.put(15)  # SIGTERM
    service.run_until_stopped()
    assert broken.attempts == 2  # what was due, and the first restart of the policy; the next is due in a second
