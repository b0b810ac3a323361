"""Service level objectives (SLOs): what a load test expects, from a TOML file, and how a run is judged by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from load_tests.memory import MemoryResult
from load_tests.mix import REQUEST_TYPES
from load_tests.results import TOTAL, FreshnessResult, Saturation, SpikeResult, TypeResult
from load_tests.shapes import BEFORE, SPIKE
from pinrec_core.errors import ConfigError
from pinrec_core.validation import check, from_plain, read_toml, validated

DEFAULT_FILE = Path(__file__).with_name("slo.toml")

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Unit = Callable[[float], str]


@validated(ConfigError)
class TypeObjectives:
    """Objectives for the requests of one type. One that is ``None`` is not judged."""

    p50_ms: Positive | None = None
    p99_ms: Positive | None = None
    failure_share: Share | None = None
    refused_share: Share | None = None


@validated(ConfigError)
class Objectives:
    """Objectives for all requests together, for some types, and for what only some shapes measure.

    One that is ``None`` is not judged. ``slo.toml`` explains each.
    """

    p50_ms: Positive | None = None
    p99_ms: Positive | None = None
    failure_share: Share | None = None
    refused_share: Share | None = None
    freshness_p99_ms: Positive | None = None
    recovery_s: Annotated[float, Field(ge=0)] | None = None
    held_per_second: Positive | None = None
    memory_mib_per_hour: float | None = None
    request_types: dict[str, TypeObjectives] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.request_types) - set(REQUEST_TYPES))
        check(not unknown, "request_types", unknown, f"only {sorted(REQUEST_TYPES)}")

    @staticmethod
    def load(path: Path) -> Objectives:
        """Read a TOML file. Raises ``ConfigError``."""
        raw = read_toml(path, error=ConfigError, what="service level objectives")
        return from_plain(Objectives, raw, error=ConfigError, source=path)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One objective and what was measured. ``where`` is a request type, a part of the run, or ``all``.

    ``met`` is None, and ``got`` says why, where the run was not meant to measure it.
    """

    objective: str
    where: str
    wanted: str
    got: str
    met: bool | None


def judge_requests(objectives: Objectives, results: Mapping[str, TypeResult]) -> Iterator[Verdict]:
    """Latency, failures and refusals of the whole run. For a steady run and a soak."""
    yield from _of_type(objectives, TOTAL, results[TOTAL])
    for name, wanted in objectives.request_types.items():
        if name in results:
            yield from _of_type(wanted, name, results[name])


def judge_spike(objectives: Objectives, spike: SpikeResult) -> Iterator[Verdict]:
    """The time before the spike like a steady run; during it failures but no refusals; and the recovery."""
    yield from _of_type(objectives, BEFORE, spike.before)
    yield from _at_most("failure_share", SPIKE, objectives.failure_share, spike.spike.failure_share, _percent)
    yield from _at_most("recovery_s", "after", objectives.recovery_s, spike.recovery, _seconds)


def judge_ramp(objectives: Objectives, found: Saturation) -> Iterator[Verdict]:
    """A ramp fails its requests on purpose: only the rate that the service held is judged, and that there is one."""
    if found.held is None:
        yield Verdict("first step", "ramp", "not saturated", found.reason, False)
    elif objectives.held_per_second is not None:
        met = found.held >= objectives.held_per_second
        yield Verdict("held_per_second", "ramp", f"≥ {objectives.held_per_second:g}", f"{found.held:.1f}", met)


def judge_freshness(objectives: Objectives, freshness: FreshnessResult | None) -> Iterator[Verdict]:
    """None for a run without probes: it judges nothing. A probe that saw no effect counts as slower than any limit."""
    if objectives.freshness_p99_ms is None:
        return
    wanted = f"≤ {_milliseconds(objectives.freshness_p99_ms)}"
    if freshness is None:
        yield Verdict("freshness_p99_ms", "probes", wanted, "not measured: no probes were asked for", None)
    elif freshness.invisible:
        got = f"{freshness.invisible} of {freshness.probes} writes were never visible"
        yield Verdict("freshness_p99_ms", "probes", wanted, got, False)
    elif freshness.p99 is None:
        got = f"no probe was answered, {freshness.undecided} undecided"
        yield Verdict("freshness_p99_ms", "probes", wanted, got, False)
    else:
        met = freshness.p99 <= objectives.freshness_p99_ms
        yield Verdict("freshness_p99_ms", "probes", wanted, _milliseconds(freshness.p99), met)


def judge_memory(objectives: Objectives, memory: MemoryResult | None, error: str) -> Iterator[Verdict]:
    """Growth counts as too much when all of its confidence interval is above the limit.

    ``error`` says why the memory could not be measured to the end, mostly that the server is gone; "" if it could.
    """
    if error:
        yield Verdict("server_pid", "server", "there until the end", error, False)
    limit = objectives.memory_mib_per_hour
    if limit is None:
        return
    wanted = f"≤ {limit:g} MiB/h"
    if memory is None:
        yield Verdict("memory_mib_per_hour", "server", wanted, "not measured: no --server-pid", None)
    elif memory.slope is None:
        yield Verdict("memory_mib_per_hour", "server", wanted, "not measured: the run was too short", None)
    else:
        got = f"{memory.slope:+.1f} MiB/h, 95% interval {memory.low:+.1f} to {memory.high:+.1f}"
        yield Verdict("memory_mib_per_hour", "server", wanted, got, (memory.low or 0.0) <= limit)


def _of_type(wanted: Objectives | TypeObjectives, where: str, got: TypeResult) -> Iterator[Verdict]:
    yield from _at_most("p50_ms", where, wanted.p50_ms, got.p50, _milliseconds)
    yield from _at_most("p99_ms", where, wanted.p99_ms, got.p99, _milliseconds)
    yield from _at_most("failure_share", where, wanted.failure_share, got.failure_share, _percent)
    yield from _at_most("refused_share", where, wanted.refused_share, got.refused_share, _percent)


def _at_most(name: str, where: str, limit: float | None, got: float | None, unit: Unit) -> Iterator[Verdict]:
    """What was not measured although it should have been does not meet its objective."""
    if limit is not None:
        shown = "none" if got is None else unit(got)
        yield Verdict(name, where, f"≤ {unit(limit)}", shown, got is not None and got <= limit)


def _milliseconds(value: float) -> str:
    return f"{value:.1f} ms"


def _seconds(value: float) -> str:
    return f"{value:.1f} s"


def _percent(value: float) -> str:
    return f"{value:.2%}"
