"""Which endpoint gets the next attempt. The clock and the jitter are the test's."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest
from pinrec_client import InvalidRequestError
from pinrec_client.channel import open_channel, split_urls
from pinrec_client.endpoints import FAILURES, FIRST_ABSENCE, LIGHT_FAILURES, LONGEST_ABSENCE, Endpoint, Endpoints


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setattr(random, "uniform", lambda low, high: high)  # an absence is as long as it may be
    return clock


def _endpoints(n: int) -> Endpoints:
    return Endpoints({url: open_channel(url) for url in (f"127.0.0.1:{port}" for port in range(1, n + 1))})


def _fail(endpoints: Endpoints, endpoint: Endpoint, times: int = FAILURES) -> None:
    for _ in range(times):
        endpoints.failed(endpoint)


def _chosen(endpoints: Endpoints, times: int) -> Counter[Endpoint]:
    return Counter(endpoints.choose() for _ in range(times))


def test_attempts_take_turns(clock: Clock):
    endpoints = _endpoints(3)
    first = [endpoints.choose() for _ in range(3)]
    assert set(first) == set(endpoints.all)
    assert [endpoints.choose() for _ in range(6)] == first * 2


def test_not_every_client_begins_with_the_first():
    assert len({_endpoints(3).choose().url for _ in range(100)}) > 1


def test_a_retry_goes_where_the_call_has_not_been(clock: Clock):
    endpoints = _endpoints(3)
    for _ in range(10):
        tried: list[Endpoint] = []
        for _ in range(3):
            tried.append(endpoints.choose(tried))
            endpoints.choose()  # another call in between moves the turn
        assert set(tried) == set(endpoints.all)
        assert endpoints.choose(tried) in tried  # all have been tried once: any of them again


def test_an_endpoint_that_fails_in_a_row_is_left_out(clock: Clock):
    endpoints = _endpoints(3)
    down = endpoints.all[0]
    _fail(endpoints, down, FAILURES - 1)
    endpoints.succeeded(down)
    _fail(endpoints, down, FAILURES - 1)
    assert _chosen(endpoints, 6)[down] == 2  # never enough of them in a row
    _fail(endpoints, down, 1)
    assert _chosen(endpoints, 6) == dict.fromkeys(endpoints.all[1:], 3)


def test_refusals_and_overtaken_attempts_count_less(clock: Clock):
    endpoints = _endpoints(2)
    busy = endpoints.all[0]
    for _ in range(3):
        for _ in range(LIGHT_FAILURES - 1):
            endpoints.failed(busy, lightly=True)
        endpoints.succeeded(busy)
    assert busy.absent_until == 0
    for _ in range(LIGHT_FAILURES):
        assert busy.absent_until == 0
        endpoints.failed(busy, lightly=True)
    assert busy.absent_until == clock.now + FIRST_ABSENCE


def test_one_attempt_tries_an_endpoint_that_returns(clock: Clock):
    endpoints = _endpoints(2)
    down, up = endpoints.all
    _fail(endpoints, down)
    clock.now += FIRST_ABSENCE
    assert _chosen(endpoints, 10) == {down: 1, up: 9}
    endpoints.succeeded(down)
    assert _chosen(endpoints, 10) == {down: 5, up: 5}


def test_absences_double_up_to_the_longest(clock: Clock):
    endpoints = _endpoints(2)
    down = endpoints.all[0]
    _fail(endpoints, down)
    absence = FIRST_ABSENCE
    for _ in range(20):
        clock.now += absence * 0.99
        assert _chosen(endpoints, 4)[down] == 0
        clock.now += absence * 0.01 + 1e-6
        assert _chosen(endpoints, 4)[down] == 1
        _fail(endpoints, down, 1)
        absence = min(2 * absence, LONGEST_ABSENCE)
    assert absence == LONGEST_ABSENCE
    clock.now += absence
    assert endpoints.choose() is down or endpoints.choose() is down
    endpoints.succeeded(down)
    _fail(endpoints, down)
    assert down.absent_until == clock.now + FIRST_ABSENCE  # a success makes it new


def test_attempts_in_flight_when_it_failed_make_the_absence_no_longer(clock: Clock):
    endpoints = _endpoints(2)
    down = endpoints.all[0]
    _fail(endpoints, down, 50)
    assert down.absent_until == clock.now + FIRST_ABSENCE


def test_a_trial_without_a_verdict_is_repeated(clock: Clock):
    endpoints = _endpoints(2)
    down = endpoints.all[0]
    _fail(endpoints, down)
    for _ in range(3):
        clock.now += FIRST_ABSENCE
        assert _chosen(endpoints, 10)[down] == 1


def test_when_all_are_left_out_all_take_turns(clock: Clock):
    endpoints = _endpoints(3)
    for endpoint in endpoints.all:
        _fail(endpoints, endpoint)
    assert _chosen(endpoints, 9) == dict.fromkeys(endpoints.all, 3)
    endpoints.succeeded(endpoints.all[1])
    assert _chosen(endpoints, 9) == {endpoints.all[1]: 9}


def test_one_endpoint_is_never_left_out(clock: Clock):
    endpoints = _endpoints(1)
    for _ in range(5):
        _fail(endpoints, endpoints.all[0])
        assert endpoints.choose() is endpoints.all[0]


def test_a_retry_stays_where_it_works_while_the_others_are_left_out(clock: Clock):
    endpoints = _endpoints(2)
    down, up = endpoints.all
    _fail(endpoints, down)
    assert endpoints.choose([up]) is up


@pytest.mark.parametrize("url", ["a:1,b:2", " a:1 , b:2", ["a:1", "b:2"], ("a:1", "b:2")])
def test_urls_are_a_list_or_a_text_with_commas(url: str | list[str]):
    assert split_urls(url) == ["a:1", "b:2"]


@pytest.mark.parametrize("url", ["", "a:1,", [], [""], [8001], "a:1,a:1"])
def test_malformed_urls_are_refused(url: str | list[str]):
    with pytest.raises(InvalidRequestError, match="url="):
        split_urls(url)
