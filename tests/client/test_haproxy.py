"""Both clients behind a real HAProxy that bounds the work in flight and checks a key."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pinrec_client import AuthenticationError, RecommendRequest, RetryPolicy, UnavailableError

from tests.client.conftest import Connect
from tests.client.scripted import Answer, Question, ScriptedService, recommendations

IN_FLIGHT = 2
PUSHBACK = 0.15  # seconds
PATIENCE = 30.0  # seconds: far more than any call of these tests takes, on a busy machine too

# gRPC's status stands in the headers of an answer that has no body, whatever the status of HTTP.
CONFIGURATION = f"""
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 1s
  timeout queue 1ms
  retries 0
  http-error status 503 hdr grpc-status 14 hdr grpc-message "too many" hdr grpc-retry-pushback-ms {PUSHBACK * 1e3:.0f}
frontend front
  bind 127.0.0.1:PORT proto h2
  acl keyed req.hdr(authorization) "Bearer k"
  http-request return status 200 hdr grpc-status 16 hdr grpc-message "no key" if !keyed
  default_backend service
backend service
  server service SERVICE proto h2 maxconn {IN_FLIGHT}
"""

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not installed")


@contextmanager
def _front(service: str, folder: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    configuration = folder / "haproxy.cfg"
    configuration.write_text(CONFIGURATION.replace("PORT", str(port)).replace("SERVICE", service))
    with subprocess.Popen(["haproxy", "-db", "-q", "-f", str(configuration)]) as process:
        try:
            end = time.monotonic() + PATIENCE
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    assert process.poll() is None
                    assert time.monotonic() < end
                    time.sleep(0.02)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


@pytest.fixture
def front(scripted: ScriptedService, tmp_path: Path) -> Iterator[str]:
    """The url of a proxy in front of ``scripted``."""
    with _front(scripted.url, tmp_path) as url:
        yield url


def test_what_is_too_much_is_refused_with_a_time(scripted: ScriptedService, front: str, connect: Connect):
    refused = threading.Semaphore(0)

    def wait_for_refusals(_: Question) -> Answer:
        refused.acquire(timeout=1.0)  # holds its place meanwhile; nothing releases it
        return recommendations()

    scripted.answer = wait_for_refusals
    client = connect(front, timeout=PATIENCE, api_key="k", retry=RetryPolicy(retries=0))
    answers = client.recommend_many([RecommendRequest(user_id=user) for user in range(6)], concurrency=6)
    errors = [answer for answer in answers if isinstance(answer, UnavailableError)]
    assert len(errors) == 6 - IN_FLIGHT
    assert {error.retry_after for error in errors} == {PUSHBACK}


def test_refused_calls_come_back_and_are_served(scripted: ScriptedService, front: str, connect: Connect):
    def take_time(_: Question) -> Answer:
        time.sleep(0.05)
        return recommendations()

    scripted.answer = take_time
    client = connect(front, timeout=PATIENCE, api_key="k", retry=RetryPolicy(retries=20, budget=1000))
    answers = client.recommend_many([RecommendRequest(user_id=user) for user in range(12)], concurrency=6)
    assert Counter(type(answer).__name__ for answer in answers) == {"Recommendations": 12}


def test_the_key_is_checked(scripted: ScriptedService, front: str, connect: Connect):
    scripted.answer = lambda _: recommendations()
    with pytest.raises(AuthenticationError):
        connect(front, timeout=PATIENCE).recommend(17)
    with pytest.raises(AuthenticationError):
        connect(front, timeout=PATIENCE, api_key="another").recommend(17)
    assert scripted.received == []
    assert connect(front, timeout=PATIENCE, api_key="k").recommend(17).items


def test_a_proxy_without_a_server_is_avoided(scripted: ScriptedService, tmp_path: Path, connect: Connect):
    scripted.answer = lambda _: recommendations()
    with _front("127.0.0.1:1", tmp_path) as dead:
        client = connect([dead, scripted.url], timeout=PATIENCE, api_key="k")
        for user in range(6):
            assert client.recommend(user).items


def test_the_loser_of_a_race_is_cancelled_through_the_proxy(scripted: ScriptedService, front: str, connect: Connect):
    released = threading.Event()

    def wait_once(_: Question) -> Answer:
        if len(scripted.received) == 1:
            released.wait(PATIENCE)
        return recommendations()

    scripted.answer = wait_once
    client = connect(front, timeout=PATIENCE, api_key="k", hedge_after=0.1)
    assert client.recommend(17).items
    assert scripted.received[0].ended.wait(PATIENCE / 3)  # nobody else ends it sooner than after PATIENCE
    released.set()
