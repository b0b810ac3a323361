"""``python -m load_tests``: send the mix in a shape, print a report, judge it by service level objectives.

The exit status is 0; or 1 when an objective is not met, or when no request was measured; or 2 when the dataset, the
service or an option cannot be used; or 130 after Ctrl-C, with a report of the time until then.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from locust.env import Environment  # noqa: F401  (patches the standard library, which has to be the first thing)
from pinrec_client import PinRecClientError
from rich.console import Console

from load_tests.assembling import assemble, judged_step
from load_tests.connection import connect
from load_tests.driver import LEAD, drive
from load_tests.options import parser, prepare
from load_tests.recorder import Recorder
from load_tests.report import Report, document, tables
from load_tests.results import TOTAL, StepResult, is_over
from load_tests.shapes import Schedule, Shape, Step
from load_tests.slo import Objectives
from pinrec_core.errors import PinRecError, ServerError, require

REPORT_WIDTH = 120  # columns, when the output is not a terminal
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    command_line = parser()
    options = command_line.parse_args(arguments)
    console = Console(stderr=options.json == "-")
    if not console.is_terminal:
        console.width = REPORT_WIDTH
    try:
        schedule, objectives = prepare(options)
        with connect(options.url, options) as client:
            require(client.is_ready(), "--url", options.url, "a service that is ready", error=ServerError)
    except PinRecError as error:
        command_line.error(str(error))
    except PinRecClientError as error:  # such as a file of certificates that does not exist
        command_line.error(f"--url={options.url}: {error}")

    try:
        report = _run(options, schedule, objectives, console)
    except KeyboardInterrupt:
        console.print("interrupted before anything was measured")
        return INTERRUPTED
    for part in tables(report):
        console.print(part)
    if options.json is not None:
        text = json.dumps(document(report), indent=2)
        print(text) if options.json == "-" else Path(options.json).write_text(text + "\n", "utf-8")
    if options.html is not None:
        from load_tests.html_report import html  # imports matplotlib, which takes a while

        Path(options.html).write_text(html(report), "utf-8")
    if report.interrupted:
        console.print(f"interrupted after {report.end - report.start:.0f} s; the figures are those until then")
        return INTERRUPTED
    if not report.passed:
        console.print("an objective is not met" if report.results[TOTAL].requests else "no request was measured")
    return 0 if report.passed else 1


def _run(options: Namespace, schedule: Schedule, objectives: Objectives, console: Console) -> Report:
    shape = Shape(options.shape)
    recorder = Recorder(time.monotonic() + LEAD)
    steps: list[StepResult] = []

    def stop_after(step: Step) -> bool:
        steps.append(judged_step(step, recorder.requests(), objectives))
        console.print(f"{step.rate:.1f} requests/s: {steps[-1].saturated or 'held'}", highlight=False)
        return is_over(steps)

    with console.status(f"{shape.value}, {options.rate:g} requests/s against {options.url}"):
        observed = drive(options, schedule, recorder, stop_after if shape is Shape.RAMP else None)
    return assemble(options, schedule, objectives, recorder, observed)


if __name__ == "__main__":
    sys.exit(main())
