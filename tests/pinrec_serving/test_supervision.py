"""A watch over real processes, and when a stage is loaded again."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pinrec_serving.heartbeat import FOLDER_VARIABLE, LEAST_PRIORITY, StageProcess, stage_processes
from pinrec_serving.processes import process_state
from pinrec_serving.supervision import RestartPolicy, StageEnded, StageWatch

STAGE = """
import sys, time
from pinrec_serving.heartbeat import Heartbeat
heartbeat = Heartbeat("generator__r1")
print("here", flush=True)
for line in sys.stdin:
    with heartbeat.at_work():
        print("at work", flush=True)
        time.sleep(float(line))
    print("idle", flush=True)
"""


class Stage:
    """A process that reports as a stage does, and works for as many seconds as it is told."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", STAGE], env={FOLDER_VARIABLE: str(folder), "PYTHONPATH": ":".join(sys.path)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.hear("here")

    def work(self, seconds: float) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        self.hear("at work")

    def hear(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.process.kill()
    stage.process.communicate()


@contextmanager
def watched(folder: Path, stall_timeout: float) -> Iterator[queue.Queue[StageEnded]]:
    ended: queue.Queue[StageEnded] = queue.Queue()
    with StageWatch(folder, ended.put, stall_timeout=stall_timeout):
        yield ended


def test_a_process_that_is_killed_is_reported_once(stage: Stage, tmp_path: Path) -> None:
    with watched(tmp_path, 60.0) as ended:
        stage.work(0.5)
        stage.hear("idle")
        assert ended.empty()
        stage.process.kill()
        assert ended.get(timeout=10) == StageEnded("generator__r1", stage.process.pid, "has ended")
        # Nobody has waited for the process yet, so the kernel still lists it, as a zombie.
        with pytest.raises(queue.Empty):
            ended.get(timeout=1.0)
    assert stage_processes(tmp_path) == []


def test_a_process_that_works_on_one_batch_for_too_long_is_killed(stage: Stage, tmp_path: Path) -> None:
    with watched(tmp_path, 1.0) as ended:
        stage.work(600)
        reason = ended.get(timeout=20).reason
    assert reason.startswith("worked on one batch for ")
    assert stage.process.wait(timeout=10) == -signal.SIGKILL


def test_many_batches_are_no_long_one(stage: Stage, tmp_path: Path) -> None:
    with watched(tmp_path, 1.0) as ended:
        for _ in range(8):  # 1.6 seconds in all
            stage.work(0.2)
            stage.hear("idle")
        assert ended.empty()
    assert stage.process.poll() is None


def test_a_process_that_somebody_stops_is_killed(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pinrec_serving.supervision.STOPPED_TIMEOUT", 0.5)
    with watched(tmp_path, 60.0) as ended:
        stage.process.send_signal(signal.SIGSTOP)
        assert ended.get(timeout=20).reason == "was stopped and was killed"


def test_a_report_that_fails_is_made_again_and_holds_up_no_other(stage: Stage, tmp_path: Path) -> None:
    reports: queue.Queue[StageEnded] = queue.Queue()

    def fail(ended: StageEnded) -> None:
        reports.put(ended)
        raise RuntimeError("nobody listens")

    with StageWatch(tmp_path, fail):
        stage.process.kill()
        assert [reports.get(timeout=10).pid for _ in range(2)] == [stage.process.pid] * 2
        other = Stage(tmp_path)
        other.process.kill()
        while reports.get(timeout=10).pid != other.process.pid:
            pass
        other.process.communicate()


def test_a_look_that_fails_is_repeated(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [OSError("Input/output error"), ValueError("a bug")]

    def look(folder: Path) -> list[StageProcess]:
        if failures:
            raise failures.pop()
        return stage_processes(folder)

    monkeypatch.setattr("pinrec_serving.supervision.stage_processes", look)
    (tmp_path / "unknown.file").touch()
    with watched(tmp_path, 60.0) as ended:
        stage.process.kill()
        assert ended.get(timeout=10).pid == stage.process.pid


def test_the_state_of_a_process_that_never_was() -> None:
    assert process_state(2**22 + 1) == "X"  # above the largest number that a kernel gives


def test_restarts_come_at_once_then_slower_then_not_at_all() -> None:
    now = [0.0]
    policy = RestartPolicy(most=5, window=100.0, longest_pause=3.0, clock=lambda: now[0])
    assert [policy.next_pause() for _ in range(6)] == [0.0, 1.0, 2.0, 3.0, 3.0, None]
    now[0] = 101.0  # all of them are forgotten
    assert policy.next_pause() == 0.0


def test_a_process_that_is_about_to_end_stands_back(stage: Stage, tmp_path: Path) -> None:
    (process,) = stage_processes(tmp_path)
    before = os.getpriority(os.PRIO_PROCESS, process.pid)
    process.stand_back()
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == LEAST_PRIORITY > before
    stage.process.kill()
    stage.process.wait()
    process.stand_back()  # nothing is left to do, and nothing goes wrong
