"""The freshness probe against services that show an event at once, late, or never."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from pinrec_client import Event, Recommendations, RecommendedItem, RecommendRequest, UnavailableError

from load_tests import freshness
from load_tests.freshness import FreshnessProbe
from load_tests.recorder import PROBE, NotVisibleError, UndecidedError
from load_tests.workload import Workload
from tests.load_tests.conftest import WriteDataset


class Service:
    """Leaves out the items of a user's events from the answer after ``answers_until_visible`` more on."""

    def __init__(self, answers_until_visible: int) -> None:
        self.answers_until_visible = answers_until_visible
        self.written: list[Event] = []
        self.requests: list[RecommendRequest] = []
        self.release = "r1"
        self.refusals = 0

    def log_events(self, events: list[Event]) -> int:
        self.written += events
        return len(events)

    def send(self, request: RecommendRequest) -> Recommendations:
        self.requests.append(request)
        if self.written and self.refusals:
            self.refusals -= 1
            raise UnavailableError("full")
        seen = set()
        if self.written:
            self.answers_until_visible -= 1
            if self.answers_until_visible < 0:
                seen = {event.item_id for event in self.written}
        items = [n for n in range(1, 13) if n not in seen][: request.num_items]
        return Recommendations(self.release, tuple(RecommendedItem(n, 1.0, "like", n) for n in items), "both")


@pytest.fixture
def probe(write_dataset: WriteDataset, monkeypatch: pytest.MonkeyPatch):
    """Probes a service once; returns the event of Locust that it fired."""
    monkeypatch.setattr(freshness, "PATIENCE", 0.3)
    workload = Workload.load(write_dataset())

    def run(service: Service) -> dict[str, Any]:
        fired: list[dict[str, Any]] = []
        FreshnessProbe(service, workload, Random(0), lambda **event: fired.append(event)).probe()
        (event,) = fired
        assert event["request_type"] == PROBE
        return event

    return run


def test_an_event_that_shows_at_once(probe):
    service = Service(0)
    event = probe(service)
    assert event["exception"] is None
    assert 0 <= event["response_time"] < 300
    (written,) = service.written
    assert written.item_id == 1, "the first item of the answer without the event"
    first, second = service.requests
    assert first is second
    assert (first.exclude_seen, first.seed, first.user_id) == (True, 0, written.user_id)
    assert written.timestamp < first.request_time, "a request sees the events before its time"


def test_an_event_that_shows_in_the_third_answer_takes_two_pauses(probe):
    event = probe(Service(2))
    assert event["exception"] is None
    # The pauses last at least 10 and 20 ms; a sleep never ends early.
    assert event["response_time"] >= 30


def test_an_event_that_never_shows_is_invisible(probe):
    assert isinstance(probe(Service(10**9))["exception"], NotVisibleError)


def test_refusals_are_asked_again_and_say_nothing_about_freshness(probe):
    service = Service(0)
    service.refusals = 2
    assert probe(service)["exception"] is None
    service = Service(0)
    service.refusals = 10**9
    assert isinstance(probe(service)["exception"], UndecidedError)


def test_a_swap_of_the_release_ends_a_probe_undecided(probe):
    service = Service(5)

    def swap(events: list[Event]) -> int:
        service.release = "r2"
        return Service.log_events(service, events)

    service.log_events = swap  # type: ignore[method-assign]
    assert isinstance(probe(service)["exception"], UndecidedError)


def test_an_answer_without_items_is_undecided(probe):
    service = Service(0)
    service.send = lambda _: Recommendations("r1", (), "both")  # type: ignore[method-assign]
    assert isinstance(probe(service)["exception"], UndecidedError)
    assert service.written == []
