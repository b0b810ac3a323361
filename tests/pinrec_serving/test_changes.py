"""The order of restarts and swaps, and how they end."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from pinrec_core.errors import StoppedError
from pinrec_serving.changes import Changes


def test_restarts_go_between_the_steps_of_a_swap_and_further_swaps_are_one() -> None:
    done: list[str] = []
    begun, go_on, finished = threading.Event(), threading.Event(), threading.Event()

    def swap(name: str) -> None:
        done.append(f"{name} begins")
        begun.set()
        go_on.wait()
        changes.between_steps()
        done.append(f"{name} ends")
        if name == "fourth":
            finished.set()

    with Changes() as changes:
        changes.swap(partial(swap, "first"))
        begun.wait()
        for name in ("second", "third", "fourth"):
            changes.swap(partial(swap, name))
        for name in ("generator", "id_embedder"):
            changes.restart(partial(done.append, name))
        go_on.set()
        assert finished.wait(10)
        assert changes.alive
    assert done == ["first begins", "generator", "id_embedder", "first ends", "fourth begins", "fourth ends"]


def test_a_swap_ends_at_its_next_step_once_the_service_stops() -> None:
    ended: list[BaseException] = []
    begun, stopped = threading.Event(), threading.Event()

    def swap() -> None:
        begun.set()
        stopped.wait()
        try:
            changes.between_steps()
        except StoppedError as error:
            ended.append(error)

    with Changes() as changes:
        changes.swap(swap)
        begun.wait()
        changes.restart(partial(pytest.fail, "nothing begins any more"))
        changes.stop()
        stopped.set()
    assert len(ended) == 1
    assert changes.stopped
    assert not changes.alive
