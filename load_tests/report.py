"""The report of a load test: all of its figures in one place, as tables for a terminal and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from load_tests.machine import MachineCard
from load_tests.memory import MemoryResult, MemorySample
from load_tests.results import (
    TOTAL,
    FreshnessResult,
    Interval,
    Saturation,
    SpikeResult,
    StepResult,
    TypeResult,
)
from load_tests.server_statistics import ModelTime, by_stage, stage_and_release
from load_tests.shapes import Shape
from load_tests.slo import Verdict

MAX_LATE_MS = 50.0
"""Above this the driver was too busy to send on time, and its figures say as much about itself as about the service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageInterval:
    """What the stages did between two readings of the server's counters, ``time`` being the middle between them."""

    time: float
    stages: dict[str, ModelTime]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverResult:
    """How busy and how punctual the driver was. ``share`` is that of one core."""

    share: float
    late_p50_ms: float | None
    late_p99_ms: float | None

    @property
    def is_late(self) -> bool:
        return self.late_p99_ms is not None and self.late_p99_ms > MAX_LATE_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that a run found. What its shape does not measure is None or empty.

    Times are in seconds from the schedule's start, and the measured time is [start, end).
    """

    shape: Shape
    settings: Mapping[str, Any]
    machine: MachineCard
    start: float
    end: float
    results: Mapping[str, TypeResult]
    errors: Counter[str]
    timeline: Sequence[Interval]
    models: Mapping[str, ModelTime]
    stage_timeline: Sequence[StageInterval]
    missed_readings: int
    driver: DriverResult
    freshness: FreshnessResult | None
    steps: Sequence[StepResult]
    saturation: Saturation | None
    spike: SpikeResult | None
    spike_at: tuple[float, float] | None
    memory: MemoryResult | None
    memory_samples: Sequence[MemorySample]
    interrupted: bool
    verdicts: Sequence[Verdict]

    @property
    def passed(self) -> bool:
        """Whether there was a request, and every objective that was judged is met."""
        return self.results[TOTAL].requests > 0 and all(verdict.met is not False for verdict in self.verdicts)

    @property
    def stages(self) -> dict[str, ModelTime]:
        return by_stage(self.models)


def document(report: Report) -> dict[str, Any]:
    """The whole report as one JSON object."""
    return {
        "shape": report.shape.value,
        "settings": dict(report.settings),
        "machine": asdict(report.machine),
        "passed": report.passed,
        "interrupted": report.interrupted,
        "slo": [asdict(verdict) for verdict in report.verdicts],
        "results": {name: _type_document(figures) for name, figures in report.results.items()},
        "errors": dict(report.errors.most_common()),
        "driver": asdict(report.driver) | {"is_late": report.driver.is_late},
        "freshness": report.freshness and asdict(report.freshness),
        "ramp": report.saturation and {**asdict(report.saturation), "steps": [asdict(s) for s in report.steps]},
        "spike": report.spike and asdict(report.spike),
        "memory": report.memory
        and {**asdict(report.memory), "samples": [asdict(sample) for sample in report.memory_samples]},
        "stages": {name: asdict(time) for name, time in report.stages.items()},
        "models": {name: asdict(time) for name, time in report.models.items()},
        "missed_readings": report.missed_readings,
        "timeline": [asdict(interval) for interval in report.timeline],
        "stage_timeline": [asdict(interval) for interval in report.stage_timeline],
    }


def _type_document(figures: TypeResult) -> dict[str, Any]:
    shares = {"failure_share": figures.failure_share, "refused_share": figures.refused_share}
    return asdict(figures) | {"failures": figures.failed + figures.timed_out} | shares


def tables(report: Report) -> Iterator[Table | str]:
    """What a terminal shows, from the requests down to the verdict."""
    yield result_table(report.results)
    if report.results[TOTAL].refused:
        yield refused_sentence(report.results[TOTAL])
    if report.steps:
        yield step_table(report.steps)
    if report.saturation is not None:
        yield saturation_sentence(report.saturation)
    if report.spike is not None:
        yield spike_sentence(report.spike)
    if report.freshness is not None:
        yield freshness_sentence(report.freshness)
    if report.models:
        yield model_table(report.models)
    else:
        yield "no statistics of the server: it did not tell its counters"
    if report.memory is not None:
        yield memory_sentence(report.memory)
    if report.errors:
        yield error_table(report.errors)
    yield driver_sentence(report.driver)
    if report.verdicts:
        yield verdict_table(report.verdicts)


def result_table(results: Mapping[str, TypeResult]) -> Table:
    table = Table(
        title="requests",
        caption="milliseconds from the scheduled arrival to the answer, refused and failed requests left out",
    )
    table.add_column("request type", no_wrap=True)
    for heading in ("requests", "per s", "p50", "p95", "p99", "slowest", "refused", "timed out", "failed"):
        table.add_column(heading, justify="right")
    for name, r in results.items():
        if name == TOTAL:
            table.add_section()
        times = [number(t) for t in (r.p50, r.p95, r.p99, r.slowest)]
        counts = [str(n) if n else "" for n in (r.refused, r.timed_out, r.failed)]
        table.add_row(name, str(r.requests), f"{r.requests_per_second:.1f}", *times, *counts)
    return table


def step_table(steps: Sequence[StepResult]) -> Table:
    table = Table(title="ramp", caption="requests per second, and milliseconds; p99 for `sent late`")
    for heading in ("rate", "offered", "goodput", "refused", "failed", "p50", "p99", "sent late"):
        table.add_column(heading, justify="right")
    table.add_column("saturated", overflow="fold")
    for step in steps:
        rates = [f"{rate:.1f}" for rate in (step.rate, step.offered, step.goodput, step.refused)]
        table.add_row(
            *rates,
            f"{step.failure_share:.2%}",
            number(step.p50),
            number(step.p99),
            number(step.late_p99),
            step.saturated or "no",
        )
    return table


def model_table(models: Mapping[str, ModelTime]) -> Table:
    table = Table(title="inside the server", caption="mean milliseconds per request, and requests per execution")
    table.add_column("stage", no_wrap=True)
    table.add_column("release")
    for heading in ("requests", "queue", "compute", "batch"):
        table.add_column(heading, justify="right")
    for stage, release, t in stage_rows(models):
        table.add_row(
            stage, release, str(t.requests), f"{t.queue_ms:.2f}", f"{t.compute_ms:.2f}", f"{t.batch_size:.2f}"
        )
    return table


def stage_rows(models: Mapping[str, ModelTime]) -> Iterator[tuple[str, str, ModelTime]]:
    """Stage, release and times: one row per stage, and one more per release where several served during the run."""
    for stage, together in by_stage(models).items():
        named = ((*stage_and_release(name), time) for name, time in models.items())
        rows = [row for row in named if row[0] == stage]
        if len(rows) > 1:
            yield stage, "all", together
        yield from rows


def error_table(errors: Counter[str]) -> Table:
    table = Table(title="refused and failed")
    table.add_column("times", justify="right")
    table.add_column("error", overflow="fold")
    for sentence, times in errors.most_common(10):
        table.add_row(str(times), sentence)
    return table


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    table = Table(title="objectives")
    for heading in ("objective", "where", "wanted", "got", "met"):
        table.add_column(heading)
    for v in verdicts:
        table.add_row(v.objective, v.where, v.wanted, v.got, verdict_word(v))
    return table


def verdict_word(verdict: Verdict) -> str:
    return "not judged" if verdict.met is None else "yes" if verdict.met else "NO"


def refused_sentence(figures: TypeResult) -> str:
    times = f"p50 {number(figures.refused_p50)} ms, p99 {number(figures.refused_p99)} ms"
    return f"refused: {figures.refused} requests ({figures.refused_share:.2%}), told so after {times}"


def saturation_sentence(found: Saturation) -> str:
    held = "none of the steps" if found.held is None else f"up to {found.held:.1f} requests/s"
    if found.saturated_at is None:
        return f"held: {held}; not saturated: a higher --max-rate would go on"
    return f"held: {held}; saturated at {found.saturated_at:.1f} requests/s: {found.reason}"


def spike_sentence(spike: SpikeResult) -> str:
    recovery = "not recovered" if spike.recovery is None else f"within the limits {spike.recovery:.0f} s after its end"
    refusals = "nothing was refused"
    if spike.refused_from is not None:
        refusals = f"{spike.spike.refused} refused, from {spike.refused_from:.1f} s to {spike.refused_until:.1f} s"
    p99 = [number(part.p99) for part in (spike.before, spike.spike, spike.after)]
    return f"spike: p99 before, during and after it {' / '.join(p99)} ms; {refusals}; {recovery}"


def freshness_sentence(freshness: FreshnessResult) -> str:
    if freshness.p99 is None:
        seen = "none became visible"
    else:
        seen = f"visible after p50 {number(freshness.p50)} ms, p99 {number(freshness.p99)} ms"
    return (
        f"freshness: {freshness.probes} writes, {seen}; {freshness.invisible} invisible, "
        f"{freshness.undecided} undecided"
    )


def memory_sentence(memory: MemoryResult) -> str:
    sizes = f"memory of the server: {memory.first:.0f} → {memory.last:.0f} MiB, at most {memory.highest:.0f} MiB"
    if memory.slope is None:
        return f"{sizes}; too short a run for a slope"
    return f"{sizes}; {memory.slope:+.1f} MiB/h (95% interval {memory.low:+.1f} to {memory.high:+.1f})"


def driver_sentence(driver: DriverResult) -> str:
    sentence = f"driver: {driver.share:.0%} of a core, requests sent late by p99 {number(driver.late_p99_ms)} ms"
    if driver.is_late:
        return f"WARNING: {sentence}, more than {MAX_LATE_MS:g} ms: the latencies hold the driver's own delay"
    return sentence


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
