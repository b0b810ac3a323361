"""How many processes, threads and microseconds of waiting suit a machine, and whether a compiled generator does: the
file that ``pinrec tune`` writes and ``pinrec serve`` reads, and the search that finds them.

The search knows no server: it is given a function that measures a setting.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from os import sched_getaffinity
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pinrec_core.contract import FAISS_RETRIEVAL, GENERATOR, ID_EMBEDDER, PIPELINE, SIGNAL_FETCH
from pinrec_core.errors import ConfigError, ServerError
from pinrec_core.validation import Text, check, from_plain, read_toml, validated

TUNING_FILE = "tuning.toml"
GAIN = 1.05
"""How much better a setting has to be, twice, before it replaces a simpler one: two runs of the same differ by less."""
DELAYS = (0, 500, 1000)  # microseconds
STAGES = tuple(spec.name for spec in PIPELINE)
BY_COST = (GENERATOR.name, FAISS_RETRIEVAL.name, SIGNAL_FETCH.name, ID_EMBEDDER.name)

Count = Annotated[int, Field(ge=1, le=1 << 10)]
Delay = Annotated[int, Field(ge=0, le=1_000_000)]


@validated()
class Machine:
    """What a tuning is good for. ``processor`` is its model with family and number; ``cores`` are those allowed."""

    processor: Text
    cores: Count

    @staticmethod
    def here() -> Machine:
        """The machine that this process runs on."""
        return Machine(processor=_processor(), cores=len(sched_getaffinity(0)))

    def __str__(self) -> str:
        return f"{self.processor}, {self.cores} cores"


@validated()
class StageTuning:
    """The processes of one stage, and how long its batcher waits for more requests."""

    instances: Count = 1
    queue_delay_us: Delay = 0


@validated()
class Setting:
    """What is tuned. A stage that is not named keeps the defaults."""

    threads: Count  # of each stage process
    compiled: bool = True  # the generator, where a program fits the machine
    stages: dict[str, StageTuning] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.stages:
            check(name in STAGES, "stages", name, f"one of {list(STAGES)}")

    def stage(self, name: str) -> StageTuning:
        return self.stages.get(name, StageTuning())

    def with_stage(self, name: str, tuning: StageTuning) -> Setting:
        return replace(self, stages={**self.stages, name: tuning})

    @property
    def instances(self) -> dict[str, int]:
        return {name: tuning.instances for name, tuning in self.stages.items()}

    @property
    def queue_delays(self) -> dict[str, int]:
        return {name: tuning.queue_delay_us for name, tuning in self.stages.items()}

    def __str__(self) -> str:
        stages = [
            f"{name} × {tuning.instances}" + (f" waiting {tuning.queue_delay_us} µs" if tuning.queue_delay_us else "")
            for name, tuning in self.stages.items()
            if tuning != StageTuning()
        ]
        plain = [] if self.compiled else ["generator uncompiled"]
        return ", ".join([f"{self.threads} thread{'s' * (self.threads > 1)}", *plain, *stages])


@validated()
class Tuning:
    """What ``tuning.toml`` holds."""

    machine: Machine
    release: Text  # that was measured
    clients: Count  # that asked at the same time
    requests_per_second: Annotated[float, Field(gt=0)]
    default_requests_per_second: Annotated[float, Field(gt=0)]  # without tuning, in the same run
    setting: Setting


def load_tuning(path: Path) -> Tuning:
    """Raises ``ConfigError`` for a file that is missing, or that ``save_tuning`` would not write."""
    raw = read_toml(path, error=ConfigError, what="a tuning", absent="make one with `pinrec tune`")
    return from_plain(Tuning, raw, source=path)


def tuned_setting(file: Path | None, *, beside: Path, warn: Callable[[str], None]) -> Setting | None:
    """What ``file`` says for this machine; without a file ``tuning.toml`` in the folder ``beside``, if it is there.

    None where there is no file, or it is another machine's, of which ``warn`` is told. Raises ``ConfigError`` for a
    given file that is missing, and for one that cannot be read.
    """
    path = file or beside / TUNING_FILE
    if file is None and not path.is_file():
        return None
    tuning, here = load_tuning(path), Machine.here()
    if tuning.machine != here:
        warn(f"{path}: tuned for {tuning.machine}, this is {here}: the defaults are used; run `pinrec tune` here")
        return None
    return tuning.setting


def save_tuning(tuning: Tuning, path: Path) -> None:
    """Write the tuning as TOML, whose texts are written as those of JSON. The file appears as a whole."""
    lines = [
        "# Written by `pinrec tune`; `pinrec serve` reads it. Ignored on another machine.",
        f"release = {json.dumps(tuning.release)}",
        f"clients = {tuning.clients}",
        f"requests_per_second = {tuning.requests_per_second:.1f}",
        f"default_requests_per_second = {tuning.default_requests_per_second:.1f}",
        "",
        "[machine]",
        f"processor = {json.dumps(tuning.machine.processor)}",
        f"cores = {tuning.machine.cores}",
        "",
        "[setting]",
        f"threads = {tuning.setting.threads}",
        f"compiled = {json.dumps(tuning.setting.compiled)}",
    ]
    for name, stage in tuning.setting.stages.items():
        lines += [
            "",
            f"[setting.stages.{name}]",
            f"instances = {stage.instances}",
            f"queue_delay_us = {stage.queue_delay_us}",
        ]
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text("\n".join(lines) + "\n", "utf-8")
    unfinished.rename(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The best setting, what it and the first one serve in requests/s, and whether all candidates were measured."""

    setting: Setting
    rate: float
    first_rate: float
    complete: bool


class _TimeIsUpError(Exception):
    """No further measurement would end in time."""


def search(
    first: Setting,
    cores: int,
    measure: Callable[[Setting], float],
    *,
    seconds: float,
    program: bool = False,
    report: Callable[[Setting, float], None] = lambda *_: None,
    failed: Callable[[Setting, ServerError], None] = lambda *_: None,
    better: Callable[[Found], object] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """Change one thing at a time, and keep what serves more requests per second by ``GAIN``, measured twice in turns.

    ``measure`` returns the requests per second of a setting. Where it raises ``ServerError``, ``failed`` is told and
    the setting counts as one that serves nothing; only the first one has to serve. ``program`` says that the generator
    can run compiled. ``better`` gets what is best so far whenever that changes, so that the work of minutes is not lost
    when the search is interrupted. No measurement begins that, taking as long as the longest so far, would end after
    ``seconds``; the first one always takes place.
    """
    began = clock()
    longest = 0.0
    tried: set[str] = set()

    def timed(setting: Setting) -> float:
        nonlocal longest
        before = clock()
        if tried and before + longest > began + seconds:
            raise _TimeIsUpError
        try:
            rate = measure(setting)
        except ServerError as error:
            if not tried:
                raise
            failed(setting, error)
            rate = 0.0
        else:
            report(setting, rate)
        longest = max(longest, clock() - before)
        tried.add(str(setting))
        return rate

    first_rate = timed(first)
    found = Found(setting=first, rate=first_rate, first_rate=first_rate, complete=False)
    try:
        for candidates in _coordinates(cores, program):
            for change in candidates:
                candidate = change(found.setting)
                if candidate is None or str(candidate) in tried or timed(candidate) < GAIN * found.rate:
                    continue
                # In turns, because a machine that has become faster since makes any candidate look better.
                again, twice = timed(found.setting), timed(candidate)
                if twice > GAIN * again:
                    found = replace(found, setting=candidate, rate=twice)
                    better(found)
    except _TimeIsUpError:
        return found
    return replace(found, complete=True)


Change = Callable[[Setting], Setting | None]


def _coordinates(cores: int, program: bool) -> Iterator[list[Change]]:
    """What can be changed, one thing after the other, the one that usually matters most first."""
    if program:
        yield [lambda setting: replace(setting, compiled=not setting.compiled)]
    yield [_threads(count) for count in _powers_of_two(cores)]
    for stage in BY_COST:
        yield [_instances(stage, count) for count in range(2, cores + 1)]
    for stage in BY_COST:
        yield [_delay(stage, delay) for delay in DELAYS]


def _threads(count: int) -> Change:
    return lambda setting: replace(setting, threads=count)


def _instances(stage: str, count: int) -> Change:
    """One process more than the setting has; None where fewer of them did not help either."""

    def change(setting: Setting) -> Setting | None:
        now = setting.stage(stage)
        return setting.with_stage(stage, replace(now, instances=count)) if count == now.instances + 1 else None

    return change


def _delay(stage: str, delay: int) -> Change:
    return lambda setting: setting.with_stage(stage, replace(setting.stage(stage), queue_delay_us=delay))


def _powers_of_two(most: int) -> list[int]:
    return [1 << k for k in range(most.bit_length()) if 1 << k <= most]


def _processor() -> str:
    """The processor's name with its family and model where the system tells them: a name alone covers generations."""
    cpuinfo = Path("/proc/cpuinfo")
    facts: Mapping[str, str] = {}
    if cpuinfo.is_file():
        first = cpuinfo.read_text("utf-8", errors="replace").partition("\n\n")[0]
        pairs = (line.partition(":") for line in first.splitlines())
        facts = {name.strip(): value.strip() for name, _, value in pairs}
    name = facts.get("model name") or platform.machine() or "unknown"
    numbers = [f"{key.removeprefix('cpu ')} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    return " ".join([name, *numbers])
