"""Sends the requests of a schedule with Locust's users, and watches the server meanwhile."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field

import gevent
import psutil
from locust.env import Environment  # patches the standard library, so it is imported before a connection is opened
from tritonclient.utils import InferenceServerException

from load_tests import memory, server_statistics
from load_tests.connection import tls
from load_tests.locustfile import PinRecUser, start_probe, stop_probe
from load_tests.memory import MemorySample
from load_tests.recorder import Recorder
from load_tests.server_statistics import ModelTime, Reading, between
from load_tests.shapes import Schedule, Step

LEAD = 0.5  # seconds in which users connect before the schedule begins
STATISTICS_INTERVAL = 1.0  # seconds between two readings of the server's counters
MEMORY_INTERVAL = 5.0  # seconds between two measurements of the server's memory
LAST_READING_ATTEMPTS = 20  # a second apart: an overloaded service may refuse this call, too

StopAfter = Callable[[Step], bool]


@dataclass(slots=True, kw_only=True)
class Observed:
    """What was seen of the server and of the driver itself. Times are in seconds from the schedule's start.

    ``readings`` are the server's counters, ``missed_readings`` how often they could not be had. ``driver_share`` is the
    processor time of this process as a share of one core. ``end`` is when the last measured step ended, or when the run
    was interrupted. ``memory_error`` says why the memory could not be measured to the end, such as that a process died.
    """

    end: float = 0.0
    interrupted: bool = False
    readings: list[tuple[float, Reading]] = field(default_factory=list)
    missed_readings: int = 0
    memory: list[MemorySample] = field(default_factory=list)
    memory_error: str = ""
    driver_share: float = 0.0

    def models(self) -> dict[str, ModelTime]:
        """What each model did from the first to the last reading; empty without two readings."""
        return between(self.readings[0][1], self.readings[-1][1]) if len(self.readings) > 1 else {}


def drive(options: Namespace, schedule: Schedule, recorder: Recorder, stop_after: StopAfter | None) -> Observed:
    """Send the schedule, and wait for the requests in flight.

    ``recorder.origin`` is the monotonic time at which the schedule begins. ``stop_after`` is asked about every measured
    step once all of its requests have ended; if it says so, the rest of the schedule is left out. Ctrl-C leaves it out,
    too; before the measured time it is raised as ``KeyboardInterrupt``.
    """
    options.schedule, options.schedule_start, options.share = schedule, recorder.origin, 1 / options.users
    environment = Environment(
        user_classes=[PinRecUser],
        host=options.url,
        parsed_options=options,
        stop_timeout=options.request_timeout + 5,
        catch_exceptions=False,
    )
    runner = environment.create_local_runner()
    environment.events.request.add_listener(recorder)
    observed = Observed()
    watchers: list[gevent.Greenlet] = []
    busy, began = time.process_time(), time.monotonic()
    runner.start(options.users, spawn_rate=options.users)
    try:
        start_probe(environment)
        _sleep_until(recorder.origin + schedule.start)
        watchers.append(gevent.spawn(_watch_statistics, options, recorder.origin, observed))
        if options.server_pid is not None:
            watchers.append(gevent.spawn(_watch_memory, options.server_pid, recorder.origin, observed))
        try:
            observed.end = _follow(schedule, recorder, options.request_timeout, stop_after)
        except KeyboardInterrupt:
            observed.end, observed.interrupted = min(time.monotonic() - recorder.origin, schedule.end), True
        observed.driver_share = (time.process_time() - busy) / (time.monotonic() - began)
    finally:
        gevent.killall(watchers)
        stop_probe()
        runner.quit()
        runner.greenlet.join()
    for _ in range(LAST_READING_ATTEMPTS if observed.readings else 1):
        if _read_statistics(options, recorder.origin, observed):
            break
        gevent.sleep(STATISTICS_INTERVAL)
    return observed


def _follow(schedule: Schedule, recorder: Recorder, timeout: float, stop_after: StopAfter | None) -> float:
    """Wait for the end of the schedule, or until ``stop_after``; returns the end of the last step that counts."""
    for step in schedule.measured:
        _sleep_until(recorder.origin + step.end)
        if stop_after is not None:
            _sleep_until(recorder.origin + step.end + timeout)  # its last requests may take so long
            if stop_after(step):
                return step.end
    return schedule.end


def _watch_statistics(options: Namespace, origin: float, observed: Observed) -> None:
    while True:
        _read_statistics(options, origin, observed)
        gevent.sleep(STATISTICS_INTERVAL)


def _read_statistics(options: Namespace, origin: float, observed: Observed) -> bool:
    now = time.monotonic() - origin
    try:
        observed.readings.append((now, server_statistics.read(options.url, options.request_timeout, tls(options))))
    except InferenceServerException:
        observed.missed_readings += 1
        return False
    return True


def _watch_memory(pid: int, origin: float, observed: Observed) -> None:
    try:
        while True:
            observed.memory.append(memory.sample(pid, time.monotonic() - origin))
            gevent.sleep(MEMORY_INTERVAL)
    except psutil.Error as error:
        observed.memory_error = f"--server-pid={pid}: {error}"


def _sleep_until(instant: float) -> None:
    """Sleep until a monotonic time. The loop is for gevent, whose timer may fire early when its own clock lags."""
    while (left := instant - time.monotonic()) > 0:
        gevent.sleep(left)
