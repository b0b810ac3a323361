"""Profile scale-out: stages as services of their own, replicas behind the edge, and what watches them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pinrec_client import Event, PinRecClient, PinRecClientError, RetryPolicy, user_share

from benchmarks.compose_project import Project, said
from tests.docker.conftest import USERS
from tests.docker.project import wait_until

CANARY_SHARE = 5  # the default of compose.yaml


@pytest.fixture(scope="module")
def project(images, data, tmp_path_factory) -> Iterator[Project]:
    project = Project("pinrec-test-scale-out", data, tmp_path_factory.mktemp("project"), **images)
    try:
        project.up("edge", "prometheus", "alertmanager")
        yield project
    finally:
        project.down()


@contextmanager
def asked(project: Project, retries: int = RetryPolicy().retries) -> Iterator[Counter[str]]:
    """Four threads ask until the end. Yields how their calls ended, "ok" or by what error."""
    outcomes: Counter[str] = Counter()
    stopped = threading.Event()

    def ask(number: int) -> None:
        with PinRecClient(project.url, timeout=20, retry=RetryPolicy(retries=retries)) as client:
            user = number
            while not stopped.wait(0.02):
                user = user % USERS + 1
                try:
                    assert len(client.recommend(user, num_items=5).items) == 5
                    outcomes["ok"] += 1
                except PinRecClientError as error:
                    outcomes[repr(error)] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: outcomes["ok"] >= 20, "requests are answered")
        yield outcomes
        count = outcomes["ok"]
        wait_until(lambda: outcomes["ok"] >= count + 20, "requests are answered afterwards")
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def wait_for_both(project: Project) -> None:
    """Until both replicas answer requests, and the edge knows it."""
    for replica in project.containers("replica"):
        wait_until(lambda replica=replica: state(replica) == "healthy", f"{replica} is healthy")
    wait_until(lambda: ready_replicas(project) == 2, "both replicas are ready")


def state(container: str) -> str:
    return said("docker", "inspect", "--format", "{{.State.Health.Status}}", container).strip()


def ready_replicas(project: Project, backend: str = "replicas") -> int:
    for line in project.get("METRICS", "/metrics").splitlines():
        if line.startswith(f'haproxy_backend_active_servers{{proxy="{backend}"}}'):
            return int(float(line.split()[-1]))
    raise AssertionError(f"the edge has no {backend}")


def answered_by(project: Project, backend: str) -> int:
    """Requests that a backend of the edge has answered."""
    lines = project.get("METRICS", "/metrics").splitlines()
    return sum(
        int(float(line.split()[-1]))
        for line in lines
        if line.startswith(f'haproxy_backend_http_responses_total{{proxy="{backend}",code="2xx"}}')
    )


def test_an_event_that_one_service_stores_is_seen_by_every_replica(project) -> None:
    wait_for_both(project)
    new_user = 1_000_000
    with PinRecClient(project.url, timeout=20) as client:
        before = client.recommend(new_user, num_items=5, seed=1)
        client.log_events([
            Event(user_id=new_user, item_id=item, action="save", timestamp=int(time.time())) for item in range(3, 9)
        ])  # fmt: skip
        after = [client.recommend(new_user, num_items=5, seed=1) for _ in range(6)]
    scores = [[item.score for item in answer.items] for answer in after]
    assert scores[0] != [item.score for item in before.items]
    # BF16 products may differ with the batch, and so in the third digit; here every request is a batch of its own.
    assert all(one == pytest.approx(scores[0], rel=1e-2) for one in scores)


def test_a_restarted_replica_costs_no_request_even_without_retries(project) -> None:
    first = project.containers("replica")[0]
    wait_for_both(project)
    with asked(project, retries=0) as outcomes:
        said("docker", "stop", "--time", "45", first)
        assert said("docker", "inspect", "--format", "{{.State.ExitCode}}", first).strip() == "0"
        said("docker", "start", first)
        wait_for_both(project)
    assert set(outcomes) == {"ok"}, outcomes


def test_a_killed_replica_costs_no_request_of_a_client_that_retries(project) -> None:
    second = project.containers("replica")[1]
    wait_for_both(project)
    with asked(project) as outcomes:
        said("docker", "exec", second, "sh", "-c", "kill -9 -1")
        wait_until(lambda: ready_replicas(project) == 1, "the edge notices")
        wait_for_both(project)
    assert set(outcomes) == {"ok"}, outcomes


def test_the_shared_store_comes_back_with_all_that_it_acknowledged(project) -> None:
    new_user = 1_000_001
    before = project.inspect("signals")["RestartCount"]
    with PinRecClient(project.url, timeout=20, retry=RetryPolicy(retries=0)) as client:
        unknown = client.recommend(new_user, num_items=5, seed=1)
        client.log_events([
            Event(user_id=new_user, item_id=item, action="save", timestamp=int(time.time())) for item in range(3, 9)
        ])  # fmt: skip
        known = client.recommend(new_user, num_items=5, seed=1)
        project("exec", "-T", "signals", "sh", "-c", "kill -9 -1")
        wait_until(lambda: project.inspect("signals")["RestartCount"] > before, "the service is gone")

        def again() -> list[float] | None:
            try:
                return [item.score for item in client.recommend(new_user, num_items=5, seed=1).items]
            except PinRecClientError:
                return None

        wait_until(lambda: again() is not None, "requests are answered again")
        scores = again()
    assert scores == pytest.approx([item.score for item in known.items], rel=1e-2)
    assert scores != pytest.approx([item.score for item in unknown.items], rel=1e-2)


def test_a_canary_answers_its_share_of_the_users(project) -> None:
    users = {user_share(user) < CANARY_SHARE: user for user in range(1, USERS)}  # one of each kind
    project.up("canary")
    wait_until(lambda: ready_replicas(project, "canary") == 1, "the edge finds the canary")
    counts = {name: answered_by(project, name) for name in ("canary", "replicas")}
    with PinRecClient(project.url, timeout=20) as client:
        for user, times in ((users[True], 3), (users[False], 5)):
            for _ in range(times):
                client.recommend(user, num_items=5)
        assert answered_by(project, "canary") - counts["canary"] == 3
        assert answered_by(project, "replicas") - counts["replicas"] == 5
        project("stop", "canary")
        assert len(client.recommend(users[True], num_items=5).items) == 5


def test_prometheus_reads_every_service_and_knows_the_alertmanager(project) -> None:
    def targets() -> Counter[tuple[str, str]]:
        active = project.get("PROMETHEUS", "/api/v1/targets")["data"]["activeTargets"]
        return Counter((t["discoveredLabels"]["__meta_dns_name"], t["health"]) for t in active)

    expected = {"replica": 2, "signals": 1, "ids": 1, "index": 1, "edge": 1}
    wait_until(lambda: targets() == {(name, "up"): n for name, n in expected.items()}, "every target is up")
    wait_until(
        lambda: len(project.get("PROMETHEUS", "/api/v1/alertmanagers")["data"]["activeAlertmanagers"]) == 1,
        "Prometheus finds the Alertmanager",
    )
    assert project.get("ALERTMANAGER", "/api/v2/status")["config"]["original"]
