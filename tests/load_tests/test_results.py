"""The figures of a run, from requests whose figures are known."""

from __future__ import annotations

import pytest

from load_tests.recorder import MAX_SENTENCES, OTHER_ERRORS, PROBE, NotVisibleError, Recorder, UndecidedError
from load_tests.results import (
    TOTAL,
    by_type,
    freshness_result,
    is_over,
    saturation,
    spike_result,
    step_result,
    timeline,
)
from load_tests.shapes import Step
from tests.load_tests.figures import FAILED, REFUSED, TIMED_OUT, record, step


@pytest.fixture
def recorder() -> Recorder:
    return Recorder(origin=100.0)


def test_percentiles_and_rates_by_type(recorder: Recorder):
    for latency in range(1, 101):
        record(recorder, name="b", latency=float(latency), arrival=5.0)
    record(recorder, name="a", latency=7.0, arrival=5.0)
    results = by_type(recorder.requests(), 10.0)
    assert list(results) == ["a", "b", TOTAL]
    assert (results["b"].requests, results["b"].requests_per_second, results["b"].accepted) == (100, 10.0, 100)
    # numpy interpolates between the neighbouring ranks: 1 + 0.5·99, 1 + 0.95·99, 1 + 0.99·99
    assert (results["b"].p50, results["b"].p95, results["b"].p99) == pytest.approx((50.5, 95.05, 99.01))
    assert (results["b"].slowest, results["b"].refused_p99) == (100.0, None)
    assert results[TOTAL].requests == 101


def test_refused_timed_out_and_failed_are_classes_of_their_own(recorder: Recorder):
    record(recorder, arrival=1, latency=10.0)
    record(recorder, arrival=1, latency=1.0, error=REFUSED)
    record(recorder, arrival=1, latency=2000.0, error=TIMED_OUT)
    record(recorder, arrival=1, latency=3.0, error=FAILED)
    figures = by_type(recorder.requests(), 1.0)["a"]
    assert (figures.accepted, figures.refused, figures.timed_out, figures.failed) == (1, 1, 1, 1)
    assert (figures.failure_share, figures.refused_share) == (0.5, 0.25)
    assert figures.p50 == 1005.0, "of the accepted one and of the one that timed out"
    assert (figures.slowest, figures.refused_p50) == (2000.0, 1.0)


def test_errors_are_counted_by_their_sentence_without_request_ids(recorder: Recorder):
    for number in (1, 2):
        record(recorder, arrival=1, error=ValueError(f"first line (request_id={number:032x})\nsecond"))
    record(recorder, arrival=1)
    assert dict(recorder.requests().error_counts()) == {"ValueError: first line (request_id=…)": 2}


def test_distinct_errors_are_bounded(recorder: Recorder):
    for number in range(MAX_SENTENCES + 50):
        record(recorder, arrival=1, error=ValueError(f"number {number}"))
    counts = recorder.requests().error_counts()
    assert counts.total() == MAX_SENTENCES + 50
    assert counts[OTHER_ERRORS] == 51


def test_only_arrivals_of_the_time_asked_for_count(recorder: Recorder):
    for arrival in (9.9, 10.0, 19.9, 20.0):
        record(recorder, arrival=arrival)
    assert len(recorder.requests().during(10.0, 20.0)) == 2


def test_no_request_has_no_figures(recorder: Recorder):
    results = by_type(recorder.requests(), 1.0)
    assert list(results) == [TOTAL]
    assert (results[TOTAL].requests, results[TOTAL].p99, results[TOTAL].failure_share) == (0, None, 0.0)


def test_a_timeline_has_one_row_per_second(recorder: Recorder):
    record(recorder, arrival=0.5, latency=10.0)
    record(recorder, arrival=1.2, error=REFUSED)
    record(recorder, arrival=1.4, error=FAILED)
    rows = timeline(recorder.requests(), 0.0, 2.5, 1.0)
    assert [row.start for row in rows] == [0.0, 1.0]
    assert [(r.offered_per_second, r.accepted_per_second, r.refused_per_second, r.failed_per_second) for r in rows] == [
        (1, 1, 0, 0),
        (2, 0, 1, 1),
    ]
    assert [row.p99 for row in rows] == [10.0, None]


@pytest.mark.parametrize(
    ("latency", "error", "reason"),
    [
        (20.0, None, ""),
        (400.0, None, "p99 400 ms, allowed 250 ms"),
        (20.0, REFUSED, "10.0% refused, allowed 1.0%"),
        (20.0, FAILED, "90.0% answered in time, expected 95%"),
    ],
)
def test_a_step_is_saturated_by_latency_refusals_or_goodput(recorder: Recorder, latency, error, reason):
    settled = Step(name="step 1", start=0.0, end=10.0, rate=10.0)
    record(recorder, arrival=1.0, latency=9000.0)  # while the step settled, so it does not count
    for number in range(80):
        record(recorder, arrival=2.0 + number / 10, latency=latency, error=error if number % 10 == 0 else None)
    figures = step_result(settled, recorder.requests(), p99_limit_ms=250.0, refused_share=0.01)
    assert figures.saturated == reason
    assert figures.offered == 10.0
    assert figures.goodput == (10.0 if error is None else 9.0)


def test_saturation_takes_two_saturated_steps_in_a_row():
    steps = [step(10), step(20, "unlucky"), step(40), step(80, "p99"), step(160, "p99")]
    assert [is_over(steps[:n]) for n in range(6)] == [False] * 5 + [True]
    found = saturation(steps)
    assert (found.held, found.saturated_at, found.reason) == (40, 80, "p99")
    assert saturation(steps[:3]).saturated_at is None
    assert saturation(steps[:4]).saturated_at == 80, "nothing follows that could say that it was bad luck"
    assert saturation([step(10, "p99"), step(20, "p99")]).held is None


def _spike(recorder: Recorder):
    before, spike, after = (
        Step(name=name, start=start, end=end, rate=10)
        for name, start, end in (("before", 0, 10), ("spike", 10, 15), ("after", 15, 35))
    )
    return spike_result(recorder.requests(), before, spike, after, p99_limit_ms=250.0, refused_share=0.0)


def test_recovery_is_counted_from_the_end_of_the_spike(recorder: Recorder):
    for tenth in range(350):
        arrival = tenth / 10
        slow = 10 <= arrival < 18.5  # 3.5 s longer than the spike
        refused = 11 <= arrival < 13 and tenth % 2 == 0
        record(recorder, arrival=arrival, latency=900.0 if slow else 20.0, error=REFUSED if refused else None)
    found = _spike(recorder)
    assert found.recovery == 4.0  # windows begin every second: the first one after 3.5 s
    assert (found.refused_from, found.refused_until) == pytest.approx((1.0, 2.8))
    assert (found.before.p99, found.spike.refused, found.after.refused) == (20.0, 10, 0)


def test_a_service_that_stays_slow_has_not_recovered(recorder: Recorder):
    for tenth in range(350):
        record(recorder, arrival=tenth / 10, latency=20.0 if tenth < 100 else 900.0)
    assert _spike(recorder).recovery is None


def test_freshness_counts_what_was_visible_what_was_not_and_what_is_unknown(recorder: Recorder):
    for latency in (10.0, 20.0, 30.0):
        record(recorder, arrival=1.0, latency=latency, kind=PROBE)
    record(recorder, arrival=1.0, error=NotVisibleError(), kind=PROBE)
    record(recorder, arrival=1.0, error=UndecidedError(), kind=PROBE)
    record(recorder, arrival=9.0, latency=99.0, kind=PROBE)
    found = freshness_result(recorder.probes, 0.0, 5.0)
    assert (found.probes, found.invisible, found.undecided, found.p50) == (4, 1, 1, 20.0)
    assert len(recorder.requests()) == 0, "a probe is no request of the mix"
