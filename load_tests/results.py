"""The figures of a run, from its requests: by type, by second, by step of a ramp, and after a spike.

A latency counts from the scheduled arrival. Percentiles are over the requests that were accepted and those that timed
out, which lasted for their timeout, so that a service does not look faster because it never answered. Those of refused
requests stand apart: a refusal is quick, and would make every percentile smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from load_tests.recorder import Outcome, Probe, Requests
from load_tests.shapes import Step

TOTAL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeResult:
    """The figures of one request type. Latencies are in milliseconds; None where there is no such request."""

    requests: int
    requests_per_second: float
    accepted: int
    refused: int
    failed: int
    timed_out: int
    p50: float | None
    p95: float | None
    p99: float | None
    slowest: float | None
    refused_p50: float | None
    refused_p99: float | None

    @property
    def failure_share(self) -> float:
        """The share of requests that failed or timed out. A refusal is none of them."""
        return (self.failed + self.timed_out) / self.requests if self.requests else 0.0

    @property
    def refused_share(self) -> float:
        return self.refused / self.requests if self.requests else 0.0


def result(requests: Requests, seconds: float) -> TypeResult:
    """The figures of requests that arrived within ``seconds``."""
    p50, p95, p99, slowest = percentiles(latencies(requests), 50, 95, 99, 100)
    refused_p50, refused_p99 = percentiles(requests.latency_ms[requests.outcome == Outcome.REFUSED], 50, 99)
    return TypeResult(
        requests=len(requests),
        requests_per_second=len(requests) / seconds,
        accepted=requests.count(Outcome.ACCEPTED),
        refused=requests.count(Outcome.REFUSED),
        failed=requests.count(Outcome.FAILED),
        timed_out=requests.count(Outcome.TIMED_OUT),
        p50=p50,
        p95=p95,
        p99=p99,
        slowest=slowest,
        refused_p50=refused_p50,
        refused_p99=refused_p99,
    )


def by_type(requests: Requests, seconds: float) -> dict[str, TypeResult]:
    """Figures by request type, in alphabetical order, and at the end those of all requests together."""
    results = {
        name: result(requests.take(requests.kind == number), seconds)
        for name, number in sorted((name, number) for number, name in enumerate(requests.kinds))
    }
    return {name: r for name, r in results.items() if r.requests} | {TOTAL: result(requests, seconds)}


def latencies(requests: Requests) -> np.ndarray:
    """float64 [R]: milliseconds of the requests that were accepted, and of those that timed out."""
    return requests.latency_ms[np.isin(requests.outcome, (Outcome.ACCEPTED, Outcome.TIMED_OUT))]


def percentiles(values: np.ndarray, *wanted: float) -> list[float | None]:
    """Percentiles between 0 and 100; None for each when there is no value."""
    if not len(values):
        return [None] * len(wanted)
    return [float(value) for value in np.percentile(values, wanted)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """What arrived in [start, start + seconds), by the second in which it *arrived*."""

    start: float
    seconds: float
    offered_per_second: float
    accepted_per_second: float
    refused_per_second: float
    failed_per_second: float  # timed out as well
    p50: float | None
    p99: float | None


def timeline(requests: Requests, start: float, end: float, seconds: float) -> list[Interval]:
    """Consecutive intervals of ``seconds``. A shorter rest at the end is left out."""
    intervals = []
    for number in range(int((end - start) / seconds + 1e-9)):
        begin = start + number * seconds
        figures = result(requests.during(begin, begin + seconds), seconds)
        intervals.append(
            Interval(
                start=begin,
                seconds=seconds,
                offered_per_second=figures.requests_per_second,
                accepted_per_second=figures.accepted / seconds,
                refused_per_second=figures.refused / seconds,
                failed_per_second=(figures.failed + figures.timed_out) / seconds,
                p50=figures.p50,
                p99=figures.p99,
            )
        )
    return intervals


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One step of a ramp, without the time in which it settled.

    ``rate`` is what the schedule says and ``offered`` what arrived, both per second, as are ``goodput``, which counts
    the requests that were answered in time, and ``refused``.
    """

    name: str
    rate: float
    offered: float
    goodput: float
    refused: float
    failure_share: float
    p50: float | None
    p99: float | None
    late_p99: float | None  # milliseconds by which the driver was late
    saturated: str  # why the service is saturated at this rate, or ""


GOODPUT_SHARE = 0.95
"""A service whose goodput is below this share of what is offered is saturated."""


def step_result(step: Step, requests: Requests, p99_limit_ms: float | None, refused_share: float) -> StepResult:
    """The figures of one step, judged: goodput, p99 and refusals say whether the service is saturated."""
    seconds = step.end - step.settled
    within = requests.during(step.settled, step.end)
    figures = result(within, seconds)
    goodput = figures.accepted / seconds
    (late_p99,) = percentiles(within.late_ms, 99)
    return StepResult(
        name=step.name,
        rate=step.rate,
        offered=figures.requests_per_second,
        goodput=goodput,
        refused=figures.refused / seconds,
        failure_share=figures.failure_share,
        p50=figures.p50,
        p99=figures.p99,
        late_p99=late_p99,
        saturated=_saturated(figures, p99_limit_ms, refused_share),
    )


def _saturated(figures: TypeResult, p99_limit_ms: float | None, refused_share: float) -> str:
    if not figures.requests:
        return ""
    if figures.refused_share > refused_share:
        return f"{figures.refused_share:.1%} refused, allowed {refused_share:.1%}"
    if figures.accepted < GOODPUT_SHARE * figures.requests:
        return f"{figures.accepted / figures.requests:.1%} answered in time, expected {GOODPUT_SHARE:.0%}"
    if p99_limit_ms is not None and figures.p99 is not None and figures.p99 > p99_limit_ms:
        return f"p99 {figures.p99:.0f} ms, allowed {p99_limit_ms:.0f} ms"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation:
    """Where a ramp ended. Rates are per second; ``held`` is None when even the first step was too much."""

    held: float | None  # the highest goodput of a step that was not saturated
    saturated_at: float | None  # the rate at which it ended, None if the service was not saturated
    reason: str


def saturation(steps: Sequence[StepResult]) -> Saturation:
    """A single saturated step may be bad luck, so the ramp ends at the first of two in a row, or at the last step."""
    first = next(
        (
            number
            for number, step in enumerate(steps)
            if step.saturated and (number + 1 == len(steps) or steps[number + 1].saturated)
        ),
        None,
    )
    held = [step.goodput for step in steps[:first] if not step.saturated]
    return Saturation(
        held=max(held, default=None),
        saturated_at=None if first is None else steps[first].rate,
        reason="" if first is None else steps[first].saturated,
    )


def is_over(steps: Sequence[StepResult]) -> bool:
    """Whether the ramp need not go on: its last two steps were saturated."""
    return len(steps) >= 2 and all(step.saturated for step in steps[-2:])


RECOVERY_WINDOW = 5.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class SpikeResult:
    """A spike and what followed. Times are in seconds.

    ``recovery`` counts from the end of the spike to the arrival from which on every window of ``RECOVERY_WINDOW`` is
    within the limits again; None if that did not happen. ``refused_from`` and ``refused_until`` are the arrivals of the
    first and the last refused request, from the beginning of the spike.
    """

    before: TypeResult
    spike: TypeResult
    after: TypeResult
    recovery: float | None
    refused_from: float | None
    refused_until: float | None


def spike_result(
    requests: Requests, before: Step, spike: Step, after: Step, *, p99_limit_ms: float | None, refused_share: float
) -> SpikeResult:
    """Judge a spike. The limits are those of the time without a spike."""
    refused = requests.arrival[(requests.outcome == Outcome.REFUSED) & (requests.arrival >= spike.start)]
    recovered: float | None = None
    for start in np.arange(after.start, after.end - RECOVERY_WINDOW + 1e-9, 1.0)[::-1]:
        figures = result(requests.during(start, start + RECOVERY_WINDOW), RECOVERY_WINDOW)
        slow = p99_limit_ms is not None and figures.p99 is not None and figures.p99 > p99_limit_ms
        if slow or figures.refused_share > refused_share or figures.accepted < GOODPUT_SHARE * figures.requests:
            break
        recovered = float(start) - after.start
    return SpikeResult(
        before=result(requests.during(before.start, before.end), before.end - before.start),
        spike=result(requests.during(spike.start, spike.end), spike.end - spike.start),
        after=result(requests.during(after.start, after.end), after.end - after.start),
        recovery=recovered,
        refused_from=float(refused.min()) - spike.start if len(refused) else None,
        refused_until=float(refused.max()) - spike.start if len(refused) else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshnessResult:
    """Milliseconds from an acknowledged write to the answer that first reflected it, over all probes that ended so.

    ``invisible`` probes saw answers but no effect until their patience ended; ``undecided`` ones got no answers.
    """

    probes: int
    invisible: int
    undecided: int
    p50: float | None
    p99: float | None


def freshness_result(probes: Sequence[Probe], start: float, end: float) -> FreshnessResult:
    """The probes whose write was acknowledged in [start, end)."""
    undecided = sum(probe.undecided and start <= probe.arrival < end for probe in probes)
    within = [probe for probe in probes if not probe.undecided and start <= probe.arrival < end]
    visible = [probe.visible_ms for probe in within if probe.visible_ms is not None]
    p50, p99 = percentiles(np.array(visible), 50, 99)
    return FreshnessResult(
        probes=len(within), invisible=len(within) - len(visible), undecided=undecided, p50=p50, p99=p99
    )
