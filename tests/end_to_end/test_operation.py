"""What an operator does: swap releases under load, refuse a bad one, drain."""

from __future__ import annotations

import shutil
import signal
import threading
import time

import pytest
from pinrec_client import PinRecClientError, UnavailableError

from load_tests import server_statistics
from pinrec_core.release.current import current_release, point_current
from tests.end_to_end.conftest import Prepared, pinrec, serving

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
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


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


def test_an_ensemble_over_a_service_of_the_id_tables_answers_as_one_that_holds_them(ml100k, ml100k_server, tmp_path):
    folders = [tmp_path / name for name in ("ids", "ensemble")]
    for folder in folders:
        folder.mkdir()
    with (
        serving(ml100k, folders[0], "--only", "id_embedder") as ids,
        serving(ml100k, folders[1], "--batch-only", "--id-embedder", ids.url,
                "--id-embedder-deadline-ms", 10_000) as ensemble,
        ml100k_server.client() as here, ensemble.client() as there,
    ):  # fmt: skip
        for user in (1, 13, 405, 655, 10**9):  # the last one is nobody
            asked = {"num_items": 50, "request_time": 900_000_000, "seed": 3}
            a, b = here.recommend(user, **asked), there.recommend(user, **asked)
            # Each request is alone in its batch, on one thread: the same sums in the same order, so the same bits. What
            # other tests have logged lies after the request's time.
            assert [(i.item_id, i.outcome, i.score) for i in a.items] == [
                (i.item_id, i.outcome, i.score) for i in b.items
            ]
        counted = server_statistics.read(ids.url, 30.0)
        assert sum(model.requests for model in counted.values()) > 4, "the service was asked"


def test_sigterm_under_load_answers_what_was_accepted(ml100k, tmp_path):
    with serving(ml100k, tmp_path, "--realtime", tmp_path / "store") as server:
        with Load(server) as load:
            wait_for(lambda: len(load.answers) > 20)
            assert server.stop() == 0
        assert all(isinstance(error, UnavailableError) for error in load.errors), load.errors
    assert current_release(ml100k.releases).is_dir()
