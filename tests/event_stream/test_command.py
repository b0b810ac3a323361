"""``pinrec ingest`` as a process of its own: killed, stopped, and run over a service that refuses and goes away."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from pinrec_cli.main import app
from tests.event_stream.storing import USERS, StoringService, row

PROGRAM = (sys.executable, "-c", "from pinrec_cli.main import main; main()", "ingest")
ROUNDS = 12
N = 6000
PATIENCE = 120.0


def started(source: object, service: StoringService, folder: Path, *options: object, **environment: str):
    rejected = folder / "rejected.jsonl"
    command = [*PROGRAM, "--from", source, "--server", service.url, "--rejected", rejected, "--json", *options]
    return subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )


def ended(process: subprocess.Popen, status: int = 0) -> dict:
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, out + errors
    assert "Traceback" not in errors
    return json.loads(out) if out else {}


def killing(service: StoringService, process: subprocess.Popen, after: int) -> None:
    """Kill the process when the service has been called ``after`` more times: before, after or within a call."""
    left = [after]

    def count(_: list[str]) -> None:
        left[0] -= 1
        if left[0] == 0:
            delay = random.random() * 0.02
            threading.Timer(delay, process.kill).start()

    service.before = count


def file_of(folder: Path) -> Path:
    path = folder / "events.jsonl"
    lines = [json.dumps(row(number)) for number in range(N)]
    for position in (100, 2500):
        lines[position] = "{no json"
    lines[4000] = json.dumps(row(4000, action="dance"))
    path.write_text("\n".join(lines) + "\n")
    return path


EXPECTED = {f"e{number}" for number in range(N)} - {"e100", "e2500", "e4000"}


def test_killed_at_any_moment_it_loses_nothing_and_doubles_nothing(service, tmp_path):
    """A file, ``kill -9`` at random calls. At each kill, what is committed is stored, and the rejects are written."""
    path, checkpoint = file_of(tmp_path), tmp_path / "events.jsonl.checkpoint"
    ends = [0]
    for line in path.read_bytes().splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    options = ("--batch", 100, "--max-rejected", 1)
    kills = 0
    for _ in range(ROUNDS):
        process = started(path, service, tmp_path, *options)
        killing(service, process, random.randint(1, 25))
        process.communicate(timeout=PATIENCE)
        kills += process.returncode == -signal.SIGKILL
        committed = json.loads(checkpoint.read_text())["offset"] if checkpoint.exists() else 0
        done = ends.index(committed)
        stored = service.event_ids(USERS)
        assert EXPECTED & {f"e{number}" for number in range(done)} <= set(stored), "committed, so it is stored"
        assert len(stored) == len(set(stored))
        rejected = [json.loads(line)["offset"] for line in _whole_lines(tmp_path / "rejected.jsonl")]
        assert {ends[bad] for bad in (100, 2500, 4000) if bad < done} <= set(rejected)
    assert kills > ROUNDS // 2, "the rounds killed something"
    service.before = lambda _: None
    last = ended(started(path, service, tmp_path, *options))
    assert last["committed"]
    stored = service.event_ids(USERS)
    assert len(stored) == len(EXPECTED)
    assert set(stored) == EXPECTED


def test_killed_at_any_moment_it_loses_nothing_of_a_topic(service, tmp_path, broker):
    topic = broker.topic()
    broker.produce(topic, [json.dumps(row(number)).encode() for number in range(N)])
    source = f"kafka://{broker.address}/{topic}?group={topic}"
    quick = {"PINREC_KAFKA_SESSION_TIMEOUT_MS": "6000", "PINREC_KAFKA_HEARTBEAT_INTERVAL_MS": "500"}
    for _ in range(2):
        process = started(source, service, tmp_path, "--batch", 100, **quick)
        killing(service, process, random.randint(1, 12))
        process.communicate(timeout=PATIENCE)
        assert process.returncode == -signal.SIGKILL
        assert broker.committed(topic, topic) <= len(set(service.event_ids(USERS)))
    service.before = lambda _: None
    last = ended(started(source, service, tmp_path, "--idle", 12, **quick))
    assert last["committed"]
    stored = service.event_ids(USERS)
    assert len(stored) == len(set(stored)) == N
    assert broker.committed(topic, topic) == N


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_what_is_in_flight_and_commits_it(service, tmp_path, number):
    """A file that is followed; the answers to the calls in flight come after the signal."""
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(row(number)) + "\n" for number in range(40)))
    called, process = threading.Event(), None

    def slowly(_: list[str]) -> None:
        called.set()
        time.sleep(0.3)

    service.before = slowly
    process = started(path, service, tmp_path, "--follow", "--batch", 10)
    assert called.wait(PATIENCE)
    process.send_signal(number)
    summary = ended(process)
    assert summary["stopped"]
    assert summary["committed"]
    assert summary["unfinished"] == 0
    stored = service.event_ids(USERS)
    assert summary["acknowledged"] == len(stored) >= 10
    service.before = lambda _: None
    rest = ended(started(path, service, tmp_path))
    assert rest["read"] == 40 - len(stored), "nothing is repeated after a stop"


def test_a_service_that_is_away_is_waited_for_and_nothing_more_is_read(service, tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(row(number)) + "\n" for number in range(1000)))
    back = threading.Event()
    service.before = lambda _: None if back.is_set() else grpc.StatusCode.UNAVAILABLE
    process = started(path, service, tmp_path, "--batch", 10, "--in-flight", 2)
    while len(service.calls) < 20:
        time.sleep(0.05)
        assert process.poll() is None
    assert len({event for ids in service.calls for event in ids}) == 20, "two batches of ten"
    back.set()
    out, errors = process.communicate(timeout=PATIENCE)
    summary = json.loads(out)
    assert (summary["acknowledged"], summary["unreadable"], summary["refused"]) == (1000, 0, 0)
    assert "takes no events now" in errors
    assert "takes events again" in errors


def test_stopped_while_the_service_is_away_it_says_what_is_undone(service, tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps(row(1)) + "\n")
    service.before = lambda _: grpc.StatusCode.UNAVAILABLE
    process = started(path, service, tmp_path, "--drain", 0.2)
    while not service.calls:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 6
    assert "before the service took the events in flight" in errors
    assert (json.loads(out)["unfinished"], json.loads(out)["committed"]) == (1, False)
    assert not (tmp_path / "events.jsonl.checkpoint").exists()


def test_a_table_of_counters_ends_the_run(service, tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(row(number)) + "\n" for number in range(30)) + "{\n")
    rejected = tmp_path / "rejected.jsonl"
    result = CliRunner().invoke(
        app, ["ingest", "--from", str(path), "--server", service.url, "--rejected", str(rejected)]
    )
    assert result.exit_code == 0, result.output
    for words in ("acknowledged", "unreadable", "refused", "events/s"):
        assert words in result.output
    assert len(rejected.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--from s3://bucket/events", "expected kafka://"),
        ("--from kafka://a:1/t --follow", "expected a file for these"),
        ("--from FILE --kafka-config FILE", "expected a source kafka://"),
        ("--from FILE --field uid", "expected NAME=THEIRS"),
        ("--from FILE --batch 20000", "batch=20000"),
        ("--from /nowhere.jsonl", "/nowhere.jsonl"),
    ],
)
def test_options_are_checked(tmp_path, line, message):
    (tmp_path / "events.jsonl").write_text("")
    arguments = ["ingest", *line.replace("FILE", str(tmp_path / "events.jsonl")).split()]
    result = CliRunner().invoke(app, arguments)
    assert message in str(result.exception)


@pytest.mark.parametrize("arguments", [["--help"], ["ingest", "--help"]])
def test_help_is_shown(arguments):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)
    assert result.exit_code == 0, result.exception
    assert "ingest" in result.output
    assert arguments[0] != "ingest" or "pinrec ingest --from events.jsonl" in result.output


def _whole_lines(path: Path) -> list[str]:
    """A kill may leave a last line that is not whole; the next run begins a new one."""
    lines = path.read_text().split("\n") if path.exists() else []

    def whole(line: str) -> bool:
        try:
            return bool(json.loads(line))
        except ValueError:
            return False

    return [line for line in lines if whole(line)]
