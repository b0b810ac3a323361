"""Turns what a run recorded and observed into its report."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from itertools import pairwise

from load_tests.driver import Observed
from load_tests.locustfile import probes_wanted
from load_tests.machine import machine_card
from load_tests.memory import memory_result
from load_tests.recorder import Recorder, Requests
from load_tests.report import DriverResult, Report, StageInterval
from load_tests.results import (
    FreshnessResult,
    Saturation,
    SpikeResult,
    StepResult,
    TypeResult,
    by_type,
    freshness_result,
    percentiles,
    saturation,
    spike_result,
    step_result,
    timeline,
)
from load_tests.server_statistics import between, by_stage
from load_tests.shapes import AFTER, BEFORE, SPIKE, Schedule, Shape, Step
from load_tests.slo import (
    Objectives,
    Verdict,
    judge_freshness,
    judge_memory,
    judge_ramp,
    judge_requests,
    judge_spike,
)

MAX_INTERVALS = 300
"""Points of a timeline, so that a soak of hours is still a readable plot."""


def judged_step(step: Step, requests: Requests, objectives: Objectives) -> StepResult:
    """A step of a ramp, judged by the objectives for p99 and refusals."""
    return step_result(step, requests, objectives.p99_ms, objectives.refused_share or 0.0)


def assemble(
    options: Namespace, schedule: Schedule, objectives: Objectives, recorder: Recorder, observed: Observed
) -> Report:
    """The report of a run that has ended."""
    shape = Shape(options.shape)
    start, end = schedule.start, observed.end
    requests = recorder.requests().during(start, end)
    results = by_type(requests, end - start)
    freshness = None
    if probes_wanted(options):
        freshness = freshness_result(recorder.probes, start, end)
    judged_freshness = freshness
    steps: list[StepResult] = []
    found: Saturation | None = None
    spike: SpikeResult | None = None
    if shape is Shape.RAMP:
        steps = [judged_step(step, requests, objectives) for step in schedule.measured if step.end <= end]
        found = saturation(steps)
    elif shape is Shape.SPIKE:
        before = schedule.step(BEFORE)
        if freshness is not None:  # as for latency, what counts is the time without a spike
            judged_freshness = freshness_result(recorder.probes, before.start, before.end)
        spike = spike_result(
            requests, before, schedule.step(SPIKE), schedule.step(AFTER),
            p99_limit_ms=objectives.p99_ms, refused_share=objectives.refused_share or 0.0,
        )  # fmt: skip
    memory = memory_result(observed.memory)
    late_p50, late_p99 = percentiles(requests.late_ms, 50, 99)
    return Report(
        shape=shape,
        settings=_settings(options),
        machine=machine_card(),
        start=start,
        end=end,
        results=results,
        errors=requests.error_counts(),
        timeline=timeline(requests, start, end, max(1.0, (end - start) / MAX_INTERVALS)),
        models=observed.models(),
        stage_timeline=list(_stage_timeline(observed)),
        missed_readings=observed.missed_readings,
        driver=DriverResult(share=observed.driver_share, late_p50_ms=late_p50, late_p99_ms=late_p99),
        freshness=freshness,
        steps=steps,
        saturation=found,
        spike=spike,
        spike_at=None if spike is None else (schedule.step(SPIKE).start, schedule.step(SPIKE).end),
        memory=memory,
        memory_samples=observed.memory,
        interrupted=observed.interrupted,
        verdicts=[
            *_verdicts(objectives, results, found, spike, judged_freshness),
            *judge_memory(objectives, memory, observed.memory_error),
        ],
    )


def _verdicts(
    objectives: Objectives,
    results: dict[str, TypeResult],
    found: Saturation | None,
    spike: SpikeResult | None,
    freshness: FreshnessResult | None,
) -> Iterator[Verdict]:
    if found is not None:  # freshness is not judged: a saturated service is late with everything
        yield from judge_ramp(objectives, found)
        return
    yield from judge_spike(objectives, spike) if spike is not None else judge_requests(objectives, results)
    yield from judge_freshness(objectives, freshness)


def _stage_timeline(observed: Observed) -> Iterator[StageInterval]:
    stride = -(-len(observed.readings) // MAX_INTERVALS) or 1
    for (then, before), (now, after) in pairwise(observed.readings[::stride]):
        yield StageInterval(time=(then + now) / 2, stages=by_stage(between(before, after)))


def _settings(options: Namespace) -> dict[str, object]:
    """The options, without what the driver added for the users."""
    added = {"schedule", "schedule_start", "share"}
    return {name: value for name, value in vars(options).items() if name not in added}
