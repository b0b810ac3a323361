"""What an operator does: swap releases under load, refuse a bad one, drain."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from contextlib import ExitStack

import pytest
from pinrec_client import Event, InvalidRequestError, PinRecClientError, UnavailableError

from load_tests import server_statistics
from pinrec_core.release.current import current_release, point_current
from tests.end_to_end.conftest import Prepared, collecting, pinrec, serving

pytestmark = pytest.mark.triton


class Load:
    """Clients that ask without pause, in threads, and remember what they were told."""

    def __init__(self, server, clients: int = 4) -> None:
        self.answers: list[tuple[str, int]] = []
        self.errors: list[PinRecClientError] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(server, n)) for n in range(clients)]

    def _run(self, server, user: int) -> None:
        with server.client() as client:
            while not self._stop.is_set():
                try:
                    answer = client.recommend(1 + user, num_items=20, timeout=20)
                    self.answers.append((answer.release, len({i.item_id for i in answer.items})))
                except PinRecClientError as error:
                    self.errors.append(error)
                    if isinstance(error, UnavailableError):
                        return

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def wait_for(condition, seconds: float = 120) -> None:
    assert holds_within(seconds, condition), "it did not happen in time"


def holds_within(seconds: float, condition) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def test_a_swap_under_load_loses_no_request_and_a_bad_release_changes_nothing(ml100k, tmp_path):
    """The next release has a compiled generator, where there is a compiler."""
    releases = tmp_path / "releases"
    compiled = ["--compile"] if shutil.which("g++") else []
    for more in ([], compiled):
        pinrec("release", ml100k.run, "--releases", releases, "--no-evaluate", "--json", *more)
    old, new = sorted(p.name for p in releases.iterdir() if p.is_dir())
    point_current(releases, old)
    prepared = Prepared(dataset=ml100k.dataset, releases=releases, run=ml100k.run)
    with serving(prepared, tmp_path, "--realtime", tmp_path / "store") as server:
        with Load(server) as load:
            wait_for(lambda: len(load.answers) > 20)
            point_current(releases, new)
            server.process.send_signal(signal.SIGHUP)
            wait_for(lambda: any(release == new for release, _ in load.answers[-4:]))
            # Damage the next release: the one that serves must go on.
            broken = releases / "broken"
            broken.mkdir()
            point_current(releases, "broken")
            server.process.send_signal(signal.SIGHUP)
            wait_for(lambda: "serves on" in server.log.read_text())
            after = len(load.answers)
            wait_for(lambda: len(load.answers) > after + 20)
        assert load.errors == []
        assert {release for release, _ in load.answers} == {old, new}
        assert {n for _, n in load.answers} == {20}
        assert load.answers[-1][0] == new
        log = server.log.with_name("triton.log").read_text("utf-8", "replace")
        assert ("generator_program.pt2: the generator runs compiled" in log) == bool(compiled)
        assert server.stop() == 0


def test_stages_on_servers_of_their_own_answer_as_those_of_one_server(ml100k, ml100k_server, tmp_path):
    """The signals, the ID tables and the index are elsewhere; the generator is in the server of the ensemble."""
    with ExitStack() as stack:
        collector = stack.enter_context(collecting())
        traces = ("--otlp", collector.url, "--trace-every", 10**9)

        def started(name, *options):
            (tmp_path / name).mkdir()
            return stack.enter_context(serving(ml100k, tmp_path / name, *traces, *options))

        services = {
            name: started(name, "--only", name, *options)
            for name, *options in (
                ("signal_fetch", "--realtime", tmp_path / "store"), ("id_embedder",), ("faiss_retrieval",)
            )
        }  # fmt: skip
        remotes = [f"--remote={name}={service.url},10000" for name, service in services.items()]
        ensemble = started("ensemble", *remotes)
        here, there = (stack.enter_context(server.client()) for server in (ml100k_server, ensemble))

        def alike(user, **asked):
            asked = {"num_items": 50, "request_time": 900_000_000, "seed": 3} | asked
            a, b = here.recommend(user, **asked), there.recommend(user, **asked)
            # Each request is alone in its batch, on one thread: the same sums in the same order, so the same bits. What
            # other tests have logged lies after the request's time.
            assert [(i.item_id, i.outcome, i.score) for i in a.items] == [
                (i.item_id, i.outcome, i.score) for i in b.items
            ]

        for user in (1, 13, 405, 655, 10**9):  # the last one is nobody
            alike(user)
        alike(405, budget={"like": 0.7, "neutral": 0.3}, exclude_seen=True)
        for name, service in services.items():
            counted = server_statistics.read(service.url, 30.0)
            assert sum(model.requests for model in counted.values()) > 4, f"{name} was asked"

        said = []
        for client in (here, there):
            with pytest.raises(InvalidRequestError) as caught:
                client.recommend(1, surface="moon")
            said.append(str(caught.value).partition("surface=")[2])
        assert said[0] == said[1] != ""

        now = int(time.time())
        before = there.recommend(13, num_items=50, request_time=now)
        with services["signal_fetch"].client() as signals:
            signals.log_events([Event(user_id=13, item_id=before.items[0].item_id, action="like", timestamp=now - 1)])
        after = there.recommend(13, num_items=50, request_time=now)
        assert [i.score for i in after.items] != [i.score for i in before.items], "the event counts at once"

        def is_traced(number: int) -> bool:
            """Whether the spans of a request arrive from the ensemble and the two services that get it as it is."""
            trace = f"{number:032x}"
            there.recommend(1, traceparent=f"00-{trace}-{1:016x}-01")

            def arrived() -> bool:
                return sum(s["traceId"] == trace and s["name"] == "InferRequest" for s in collector.spans) >= 3

            return holds_within(6.0, arrived)  # they are sent every few seconds

        assert any(is_traced(attempt) for attempt in range(1, 11)), "nobody promises that every batch of spans arrives"


def test_sigterm_under_load_answers_what_was_accepted(ml100k, tmp_path):
    with serving(ml100k, tmp_path, "--realtime", tmp_path / "store") as server:
        with Load(server) as load:
            wait_for(lambda: len(load.answers) > 20)
            assert server.stop() == 0
        assert all(isinstance(error, UnavailableError) for error in load.errors), load.errors
    assert current_release(ml100k.releases).is_dir()
