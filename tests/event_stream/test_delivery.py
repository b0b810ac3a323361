"""What cannot be used is separated from its neighbours, by the real stage's refusals; what is away is waited for."""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections.abc import Callable, Iterator

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pinrec_client import AuthenticationError, PinRecClient, RetryPolicy

from event_stream import delivery
from event_stream.delivery import Delivery, UndeliveredError
from event_stream.records import RecordFormat
from event_stream.rejected import Why
from event_stream.source import Record
from event_stream.stopping import Stopping
from tests.client.scripted import Refusal
from tests.event_stream.storing import NOW, USERS, StoringService, row

FAULTS = [
    {"action": "dance"},  # the service names its position
    {"surface": "moon"},
    {"timestamp": NOW + 10**6},
    {"event_id": "x" * 300},
    {"user_id": "a text"},  # the client refuses it beside integers, Triton alone
]


NEW = itertools.count()


def records(*rows: object) -> list[Record]:
    return [Record(json.dumps(one).encode(), "events", number) for number, one in enumerate(rows)]


Deliver = Callable[..., Delivery]


@pytest.fixture
def delivering(service: StoringService, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deliver]:
    monkeypatch.setattr(delivery, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(delivery, "LONGEST_PAUSE", 0.05)
    with PinRecClient(service.url, timeout=5, retry=RetryPolicy(first_pause=0.01)) as client:
        yield lambda stopping=None, tell=lambda _: None: Delivery(
            client.log_events, RecordFormat(), stopping or Stopping(), tell
        )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(1, 40),
    faults=st.dictionaries(st.integers(0, 39), st.sampled_from([*FAULTS, {"action": None}]), max_size=12),
)
def test_all_neighbours_of_faults_are_stored_and_all_faults_are_rejected(service, delivering, n, faults):
    start = 100 * next(NEW)  # other events in each example
    faults = {at: fault for at, fault in faults.items() if at < n}
    rows = [row(start + at, timestamp=NOW - at) | faults.get(at, {}) for at in range(n)]
    for at in faults:
        rows[at] = {name: value for name, value in rows[at].items() if value is not None}
    before = len(service.calls)
    done = delivering().deliver(records(*rows))
    assert sorted(one.record.offset for one in done.rejected) == sorted(faults)
    assert done.acknowledged == n - len(faults)
    stored = service.event_ids(USERS)
    assert {f"e{start + at}" for at in range(n) if at not in faults} <= set(stored)
    assert not {f"e{start + at}" for at in faults} & set(stored)
    assert len(stored) == len(set(stored))
    calls = len(service.calls) - before
    assert calls <= 1 + len(faults) * (2 * math.log2(n + 1) + 2)


def test_a_batch_of_faults_alone_is_not_sent_again_whole_for_each(service, delivering):
    done = delivering().deliver(records(*(row(number, action="dance") for number in range(256))))
    assert len(done.rejected) == 256
    assert {one.why for one in done.rejected} == {Why.REFUSED}
    assert sum(map(len, service.calls)) <= 256 * (math.log2(256) + 1)


def test_a_reason_names_field_value_and_expectation_without_the_position_in_a_call(delivering):
    (rejected,) = delivering().deliver(records(row(1), row(2, action="dance"), row(3))).rejected
    assert rejected.reason.startswith("event_action='dance': expected one of ['save', 'click'")


def test_a_service_that_is_away_is_waited_for_and_nothing_is_rejected(service, delivering):
    away = iter([grpc.StatusCode.UNAVAILABLE] * 9 + [grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL])
    service.before = lambda _: next(away, None)
    told: list[str] = []
    done = delivering(tell=told.append).deliver(records(*(row(number) for number in range(20))))
    assert (done.acknowledged, done.rejected) == (20, [])
    assert sorted(service.event_ids(USERS)) == sorted(f"e{number}" for number in range(20))
    assert ["takes no events now" in one for one in told] == [True, False], "once when it goes, once when it is back"
    assert "again, after" in told[1]


def test_an_event_that_the_service_fails_on_does_not_hold_up_the_others(service, delivering):
    service.before = lambda ids: Refusal(None, grpc.StatusCode.INTERNAL, "internal error") if "e3" in ids else None
    done = delivering().deliver(records(*(row(number) for number in range(8))))
    assert done.acknowledged == 7
    (rejected,) = done.rejected
    assert rejected.record.offset == 3
    assert "fails on it and takes others" in rejected.reason


def test_while_the_service_fails_on_everything_nothing_is_rejected(service, delivering):
    calls_at_end = 60
    service.before = lambda _: Refusal(None, grpc.StatusCode.INTERNAL, "internal error")
    stopping = Stopping(lambda: len(service.calls) >= calls_at_end, drain_seconds=0.0)
    with pytest.raises(UndeliveredError, match="before the service took the events"):
        delivering(stopping).deliver(records(row(1), row(2)))
    assert len(service.calls) >= calls_at_end


def test_what_is_in_flight_has_a_while_after_a_stop(service, delivering):
    asked = threading.Event()

    def away_until_asked(_: list[str]) -> object:
        if asked.is_set():
            return None
        asked.set()
        return Refusal("-1", grpc.StatusCode.UNAVAILABLE, "away")

    service.before = away_until_asked
    done = delivering(Stopping(asked.is_set, drain_seconds=60)).deliver(records(row(1)))
    assert done.acknowledged == 1


def test_a_wrong_key_ends_the_run(service, delivering):
    service.before = lambda _: grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(AuthenticationError):
        delivering().deliver(records(row(1)))


def test_long_texts_are_sent_in_several_calls(service, delivering):
    done = delivering().deliver(
        records(*(row(n, item_id=None, action="search", query=f"{n} " + "x" * 4000) for n in range(200)))
    )
    assert done.acknowledged == 200
    assert len(service.calls) > 3
