"""Service level objectives: the file, and every way to miss one."""

from __future__ import annotations

import pytest

from load_tests.memory import MemoryResult
from load_tests.recorder import Recorder
from load_tests.results import FreshnessResult, Saturation, SpikeResult, by_type, result
from load_tests.slo import (
    DEFAULT_FILE,
    Objectives,
    TypeObjectives,
    judge_freshness,
    judge_memory,
    judge_ramp,
    judge_requests,
    judge_spike,
)
from pinrec_core.errors import ConfigError
from tests.load_tests.figures import FAILED, REFUSED, record


def _results():
    recorder = Recorder(0.0)
    for latency in (10.0, 20.0, 30.0):
        record(recorder, arrival=1, latency=latency)
    record(recorder, arrival=1, error=REFUSED)
    record(recorder, arrival=1, error=FAILED, name="search")
    return by_type(recorder.requests(), 1.0)


def _rows(verdicts):
    return [(v.objective, v.where, v.wanted, v.got, v.met) for v in verdicts]


def test_every_objective_is_one_row():
    objectives = Objectives(
        p50_ms=20.0, p99_ms=25.0, failure_share=0.5, refused_share=0.1,
        request_types={"search": TypeObjectives(failure_share=0.0), "cold user": TypeObjectives(p99_ms=1.0)},
    )  # fmt: skip
    assert _rows(judge_requests(objectives, _results())) == [
        ("p50_ms", "all", "≤ 20.0 ms", "20.0 ms", True),
        ("p99_ms", "all", "≤ 25.0 ms", "29.8 ms", False),
        ("failure_share", "all", "≤ 50.00%", "20.00%", True),
        ("refused_share", "all", "≤ 10.00%", "20.00%", False),
        ("failure_share", "search", "≤ 0.00%", "100.00%", False),
    ]


def test_no_objective_no_row():
    assert _rows(judge_requests(Objectives(), _results())) == []


def test_a_latency_that_nobody_had_does_not_meet_its_objective():
    recorder = Recorder(0.0)
    record(recorder, arrival=1, error=REFUSED)
    (row,) = judge_requests(Objectives(p99_ms=10.0), by_type(recorder.requests(), 1.0))
    assert (row.got, row.met) == ("none", False)


@pytest.mark.parametrize(
    ("freshness", "got", "met"),
    [
        (None, "not measured: no probes were asked for", None),
        (FreshnessResult(probes=3, invisible=0, undecided=0, p50=9.0, p99=30.0), "30.0 ms", True),
        (FreshnessResult(probes=3, invisible=0, undecided=0, p50=9.0, p99=60.0), "60.0 ms", False),
        (FreshnessResult(probes=3, invisible=1, undecided=0, p50=9.0, p99=30.0),
         "1 of 3 writes were never visible", False),
        (FreshnessResult(probes=0, invisible=0, undecided=4, p50=None, p99=None),
         "no probe was answered, 4 undecided", False),
    ],
)  # fmt: skip
def test_freshness(freshness, got, met):
    (row,) = judge_freshness(Objectives(freshness_p99_ms=50.0), freshness)
    assert (row.got, row.met) == (got, met)
    assert list(judge_freshness(Objectives(), freshness)) == []


def test_a_spike_may_refuse_but_not_fail_and_has_to_be_over_in_time():
    recorder = Recorder(0.0)
    record(recorder, arrival=1, error=REFUSED)
    refusing = result(recorder.requests(), 1.0)
    calm = _results()["a"]
    spike = SpikeResult(before=calm, spike=refusing, after=calm, recovery=None, refused_from=0.0, refused_until=1.0)
    objectives = Objectives(failure_share=0.0, refused_share=0.3, recovery_s=5.0)
    assert _rows(judge_spike(objectives, spike)) == [
        ("failure_share", "before", "≤ 0.00%", "0.00%", True),
        ("refused_share", "before", "≤ 30.00%", "25.00%", True),
        ("failure_share", "spike", "≤ 0.00%", "0.00%", True),
        ("recovery_s", "after", "≤ 5.0 s", "none", False),
    ]


def test_a_ramp_is_judged_by_what_it_held():
    held = Saturation(held=40.0, saturated_at=80.0, reason="p99")
    assert list(judge_ramp(Objectives(p99_ms=1.0), held)) == []
    assert [v.met for v in judge_ramp(Objectives(held_per_second=30.0), held)] == [True]
    assert [v.met for v in judge_ramp(Objectives(held_per_second=50.0), held)] == [False]
    (nothing,) = judge_ramp(Objectives(), Saturation(held=None, saturated_at=10.0, reason="p99"))
    assert nothing.met is False


@pytest.mark.parametrize(("low", "met"), [(5.0, True), (15.0, False)])
def test_memory_grows_too_much_when_its_whole_interval_does(low, met):
    memory = MemoryResult(first=1.0, last=2.0, highest=2.0, slope=20.0, low=low, high=40.0)
    (row,) = judge_memory(Objectives(memory_mib_per_hour=10.0), memory, "")
    assert row.met is met


def test_a_server_that_is_gone_is_a_violation_whatever_the_objectives():
    assert [v.met for v in judge_memory(Objectives(), None, "process no longer exists")] == [False]
    assert [v.met for v in judge_memory(Objectives(memory_mib_per_hour=1.0), None, "")] == [None]


def test_the_default_file_and_its_commented_examples_are_valid(write_slo):
    assert Objectives.load(DEFAULT_FILE).p99_ms is not None
    lines = DEFAULT_FILE.read_text("utf-8").splitlines()
    examples = [line.removeprefix("# ") for line in lines if " = " in line or line.startswith("# [")]
    complete = Objectives.load(write_slo("\n".join(examples)))
    assert complete.held_per_second is not None
    assert complete.memory_mib_per_hour is not None
    assert complete.request_types["known user, 500 items"].p99_ms is not None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("p99 = 10", r"keys=\['p99'\]|\['p99'\]: expected only"),
        ("p99_ms = 0", "p99_ms=0: expected a value above 0"),
        ("failure_share = 2", "failure_share=2: expected a value of at most 1"),
        ('[request_types."cold users"]\np99_ms = 1', r"request_types=\['cold users'\]"),
        ('[request_types."cold user"]\nrecovery_s = 1', "expected only"),
    ],
)
def test_slips_in_a_file_are_refused(write_slo, text: str, sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        Objectives.load(write_slo(text))
