"""Behaviour under load: the real Triton at 25% to 400% of what it can serve, with Poisson arrivals.

The saturation is the most that clients are served who ask again as soon as they are answered. An open loop then offers
shares of it, and latency counts from the scheduled arrival. Every request asks for 100 items for a known user, within
the client's default timeout. At the end comes the lowest share again, to see whether the overload has left anything
behind. The ratio of a row is its median over that of requests which come one at a time.

``timeouts`` and ``errors`` are shares of the requests. ``recovery s`` is how long a request takes that comes when all
others have been answered or given up, because the server may still be busy with those that were given up; the next load
begins after it. ``queue at`` is the stage in which requests waited longest, and ``queue ms`` their mean wait there.
``late ms`` is how late the driver was, at the 99th percentile, and ``driver`` its share of one core.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from itertools import islice

import numpy as np
from pinrec_client import PinRecClient
from pinrec_client.channel import DEFAULT_TIMEOUT

from benchmarks.open_loop import Outcome, Target, closed_loop, driver_process, open_loop
from benchmarks.options import Options, Progress
from benchmarks.report import Result, Row, Value
from benchmarks.server import served
from benchmarks.timing import Timing
from load_tests import server_statistics
from load_tests.server_statistics import ModelTime
from pinrec_core.contract import ENSEMBLE
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.errors import ServerError

BASELINE = "one at a time"
CLOSED, OPEN, AFTER = "closed loop", "open loop", "after the overload"
CLIENTS = (16, 64)
SHARES = (0.25, 0.5, 0.7, 0.85, 1.0, 2.0, 4.0)
QUICK_SHARES = (0.7, 2.0)
USERS = 256
NUM_ITEMS = 100
CLOSED_SECONDS, OPEN_SECONDS = 10, 30  # for each second that a benchmark spends on a function
WARM_UP = 2.0
RECOVERY_TIMEOUT = 600.0  # seconds that the server may take to work off what a load has left in its queues


def run(options: Options, progress: Progress) -> Result:
    progress("starting the server")
    histories = iter_histories(options.prepared.signals / "sequences")
    users = [user for user, _ in islice(histories, USERS)]
    with served(options.prepared.folders, ["--front", "none", "--threads", options.threads]) as server:
        target = Target(url=server.url, users=users, num_items=NUM_ITEMS, timeout=DEFAULT_TIMEOUT)
        rows, saturation = _measure(target, QUICK_SHARES if options.quick else SHARES, options, progress)
    release = options.prepared.release.manifest
    settings = {
        "saturation in requests/s": round(saturation, 1), "timeout in s": DEFAULT_TIMEOUT,
        "dataset": release.dataset.name, "V": release.dataset.num_items, "layers": release.model.layers,
        "H": release.model.hidden_width, "T": release.model.max_history, "S": release.generation.steps,
        "W": len(release.generation.offsets), "O": release.model.num_conditions, "N": NUM_ITEMS,
        "threads": options.threads, "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", ""),
    }  # fmt: skip
    return Result(benchmark="scale_load", baseline=BASELINE, settings=settings, floors=[], rows=rows)


def _measure(target: Target, shares: Sequence[float], options: Options, progress: Progress) -> tuple[list[Row], float]:
    """All rows, and the saturation in requests per second. Raises ``ServerError`` where nothing is answered."""
    with driver_process() as process:

        def closed(clients: int) -> Outcome:
            progress(f"closed loop, {clients} in flight")
            seconds = CLOSED_SECONDS * options.seconds
            return process.submit(closed_loop, target, clients=clients, seconds=seconds).result()

        def offered(rate: float) -> tuple[Outcome, dict[str, Value]]:
            before = server_statistics.read(target.url, target.timeout)
            seconds = OPEN_SECONDS * options.seconds
            outcome = process.submit(open_loop, target, rate=rate, seconds=seconds, warm_up=WARM_UP).result()
            recovery = _seconds_to_recover(target)
            after = server_statistics.read(target.url, target.timeout)
            return outcome, {"recovery s": recovery} | _longest_queue(server_statistics.between(before, after))

        closed(max(CLIENTS))  # warm-up
        alone = closed(1)
        crowds = {clients: closed(clients) for clients in CLIENTS}
        saturation = max(outcome.answered_per_second for outcome in crowds.values())
        if not saturation:
            raise ServerError(f"no request was answered in a closed loop: {alone.errors.most_common(3)}")
        least = float(np.median(alone.latency_ms))
        rows = [_row("1 client", BASELINE, alone, least, {})]
        rows += [_row(f"{clients} clients", CLOSED, outcome, least, {}) for clients, outcome in crowds.items()]
        for what, share in [*((OPEN, share) for share in shares), (AFTER, shares[0])]:
            progress(f"{share:.0%} of {saturation:.0f} requests/s, {what}")
            outcome, server = offered(share * saturation)
            rows.append(_row(f"{share:.0%}", what, outcome, least, server))
    return rows, saturation


def _seconds_to_recover(target: Target) -> float:
    """How long one more request takes: it comes behind all that is left in the queues, answered or not."""
    began = time.perf_counter()
    with PinRecClient(target.url, timeout=RECOVERY_TIMEOUT) as client:
        client.recommend(target.users[0], num_items=target.num_items)
    return time.perf_counter() - began


def _longest_queue(models: dict[str, ModelTime]) -> dict[str, Value]:
    """The stage in which requests waited longest, if any answered."""
    waits = {name.partition("__")[0]: model.queue_ms for name, model in models.items() if name != ENSEMBLE.name}
    if not waits:
        return {}
    longest = max(waits, key=lambda name: waits[name])
    return {"queue at": longest, "queue ms": waits[longest]}


def _row(load: str, what: str, outcome: Outcome, least: float, server: dict[str, Value]) -> Row:
    timing = Timing.of(outcome.latency_ms)
    requests = len(outcome.latency_ms)
    more: dict[str, Value] = {
        "p95_ms": float(np.quantile(outcome.latency_ms, 0.95)), "p99 / p50": timing.p99_ms / timing.median_ms,
        "offered/s": outcome.offered_per_second, "answered/s": outcome.answered_per_second,
        "timeouts": outcome.timeouts / requests, "errors": outcome.errors.total() / requests,
        "late ms": float(np.quantile(outcome.late_ms, 0.99)), "driver": outcome.driver_share,
    }  # fmt: skip
    return Row(case={"load": load}, what=what, timing=timing, ratio=timing.median_ms / least, more=more | server)
