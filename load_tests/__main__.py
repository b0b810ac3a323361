"""``python -m load_tests``: send the mix at a given rate for a given time, print a report, judge the failures.

The exit status is 0; or 1 when the share of failures is above ``--max-failure-share``, or when no request was measured;
or 2 when the dataset, the service or an option cannot be used. No latency is judged.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import gevent
from locust.env import Environment  # patches the standard library, so it is imported before a connection is opened
from rich.console import Console
from tritonclient.utils import InferenceServerException

from load_tests import server_statistics
from load_tests.locustfile import PinRecUser, add_arguments
from load_tests.report import TOTAL, Recorder, document, error_table, model_table, result_table
from load_tests.server_statistics import ModelTime, between
from load_tests.workload import Workload
from pinrec_core.errors import PinRecError

REPORT_WIDTH = 120  # columns, when the output is not a terminal


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    for name in ("rate", "users", "duration", "request_timeout"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name.replace('_', '-')}={getattr(options, name)}: expected a value above 0")
    console = Console(stderr=options.json == "-")
    if not console.is_terminal:
        console.width = REPORT_WIDTH
    try:
        Workload.load(Path(options.dataset))
        server_statistics.read(options.url, options.request_timeout)
    except PinRecError as error:
        parser.error(str(error))
    except InferenceServerException as error:
        parser.error(f"--url={options.url}: {error.message()}")

    start = time.monotonic() + options.warm_up
    recorder = Recorder(start, start + options.duration)
    try:
        models = _run(options, recorder, console)
    except InferenceServerException as error:  # the measurements at the client are reported all the same
        console.print(f"no statistics of the server: {error.message()}")
        models = {}
    results = recorder.results()
    console.print(result_table(results))
    if models:
        console.print(model_table(models))
    if recorder.errors:
        console.print(error_table(recorder.errors))
    if options.json is not None:
        text = json.dumps(document(_settings(options), recorder, results, models), indent=2)
        print(text) if options.json == "-" else Path(options.json).write_text(text + "\n", "utf-8")

    share = results[TOTAL].failure_share if results else 1.0
    if share > options.max_failure_share:
        console.print(f"failed requests: {share:.2%}, allowed: {options.max_failure_share:.2%}")
        return 1
    return 0


def _run(options: Namespace, recorder: Recorder, console: Console) -> dict[str, ModelTime]:
    """Warm up, measure, and wait for the requests in flight; returns the time that each model of the server spent.

    Raises ``InferenceServerException`` when the server's counters cannot be read.
    """
    options.user_rate = options.rate / options.users
    environment = Environment(
        user_classes=[PinRecUser],
        host=options.url,
        parsed_options=options,
        stop_timeout=options.request_timeout + 5,
        catch_exceptions=False,
    )
    runner = environment.create_local_runner()
    environment.events.request.add_listener(recorder)
    runner.start(options.users, spawn_rate=options.users)
    try:
        with console.status(f"{options.rate:g} requests/s against {options.url} for {options.duration:g} s"):
            _sleep_until(recorder.start)
            before = server_statistics.read(options.url, options.request_timeout)
            _sleep_until(recorder.end)
    finally:
        runner.quit()
        runner.greenlet.join()
    return between(before, server_statistics.read(options.url, options.request_timeout))


def _sleep_until(instant: float) -> None:
    """Sleep until a monotonic time. The loop is for gevent, whose timer may fire early when its own clock lags."""
    while (left := instant - time.monotonic()) > 0:
        gevent.sleep(left)


def _settings(options: Namespace) -> dict[str, object]:
    names = ("url", "dataset", "users", "rate", "duration", "warm_up", "request_timeout", "no_writes", "random_seed")
    return {name: getattr(options, name) for name in names}


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m load_tests", description="Load-test a running PinRec service.")
    parser.add_argument("--url", default="127.0.0.1:8001", help="gRPC endpoint (default %(default)s)")
    parser.add_argument("--rate", type=float, default=20.0, help="arrivals per second in all (default %(default)s)")
    parser.add_argument("--users", type=int, default=4, help="sources, each with a connection (default %(default)s)")
    parser.add_argument("--duration", type=float, default=30.0, help="seconds measured (default %(default)s)")
    parser.add_argument("--warm-up", type=float, default=3.0, help="seconds before that (default %(default)s)")
    parser.add_argument(
        "--max-failure-share", type=float, default=0.0, help="share of failures that is allowed (default %(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - is standard output")
    add_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
