"""The options of ``python -m load_tests`` and of ``locust -f load_tests/locustfile.py``, which share most of them."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter, _ActionsContainer
from dataclasses import fields
from pathlib import Path

from load_tests import slo
from load_tests.mix import Mix
from load_tests.shapes import DEFAULT_DURATION, DEFAULT_FACTOR, Schedule, Shape, ShapeOptions
from load_tests.slo import Objectives
from load_tests.workload import Workload
from pinrec_core.errors import ConfigError, require

DESCRIPTION = """Load-test a running PinRec service.

Requests arrive at a given rate, whether or not earlier ones are answered, and their latency counts from the moment at
which they were due. Four shapes answer four questions:

  steady   Is the service within its objectives at this rate?
  ramp     How much can it serve? The rate rises step by step until the service is saturated.
  spike    What happens under several times the load for some seconds, and how soon is it over?
  soak     Does anything grow, such as memory, over hours?
"""

EXAMPLES = """examples:
  python -m load_tests --dataset demo/dataset
  python -m load_tests --dataset demo/dataset --mix log --rate 40 --duration 60 --html report.html
  python -m load_tests --dataset demo/dataset --shape ramp --rate 10 --factor 1.25 --html ramp.html
  python -m load_tests --dataset demo/dataset --shape spike --rate 15 --factor 5 --spike-duration 10
  python -m load_tests --dataset demo/dataset --shape soak --duration 7200 --server-pid 4711 --json soak.json
  pinrec serve … -- python -m load_tests --dataset demo/dataset --shape soak --server-pid parent

The exit status is 0 when every objective of --slo is met, 1 when one is not, and 2 when the dataset, the service or an
option cannot be used. Requests of the type `log event`, and the freshness probe, write events: use --no-writes against
a store whose content matters. PINREC_API_KEY in the environment is sent as the key of the service.
"""


def parser() -> ArgumentParser:
    """The command line of ``python -m load_tests``."""
    parser = ArgumentParser(
        prog="python -m load_tests",
        usage="%(prog)s --dataset FOLDER [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", default="127.0.0.1:8001", help="gRPC endpoint (default %(default)s)")
    parser.add_argument(
        "--shape", choices=[shape.value for shape in Shape], default=Shape.STEADY.value, help="default %(default)s"
    )
    parser.add_argument("--users", type=int, default=4, help="sources, each with a connection (default %(default)s)")
    parser.add_argument(
        "--slo",
        metavar="FILE",
        default=str(slo.DEFAULT_FILE),
        help="service level objectives as TOML (default: slo.toml of load_tests, which explains them)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - is standard output")
    parser.add_argument("--html", metavar="FILE", help="write a report with plots, all in one file")
    parser.add_argument(
        "--server-pid",
        metavar="PID",
        help="process whose tree is the server, on this machine: its memory is measured. `parent` is the process that "
        "started this one",
    )
    add_request_arguments(parser.add_argument_group("requests"))
    add_shape_arguments(parser.add_argument_group("shape"))
    return parser


def add_request_arguments(group: _ActionsContainer) -> None:
    """What is asked."""
    group.add_argument("--dataset", metavar="FOLDER", required=True, help="prepared dataset whose service is tested")
    group.add_argument(
        "--mix",
        metavar="NAME|FILE",
        default="uniform",
        help="uniform: every user as often as any other; log: users, surfaces and searches as often as in the log of "
        "the dataset; or a TOML file like load_tests/mix.toml (default %(default)s)",
    )
    group.add_argument("--root-certificates", metavar="PEM", help="use TLS, trusting these certificates")
    group.add_argument("--request-timeout", type=float, default=2.0, help="seconds per request (default %(default)s)")
    group.add_argument("--no-writes", action="store_true", help="write no events; this leaves the freshness probe out")
    group.add_argument(
        "--freshness-interval",
        type=float,
        default=2.0,
        help="seconds between two probes of the time from a write to its effect; 0 for none (default %(default)s)",
    )
    group.add_argument("--random-seed", type=int, default=0, help="of the requests and arrivals (default %(default)s)")


def add_shape_arguments(group: _ActionsContainer) -> None:
    """How the rate changes. ``shape_options`` reads these."""
    default = ShapeOptions()
    durations = ", ".join(f"{shape.value} {seconds:g}" for shape, seconds in DEFAULT_DURATION.items())
    factors = ", ".join(f"{shape.value} {factor:g}" for shape, factor in DEFAULT_FACTOR.items())
    group.add_argument(
        "--rate",
        type=float,
        default=default.rate,
        help="arrivals per second in all; of a ramp those of its first step (default %(default)s)",
    )
    group.add_argument(
        "--duration",
        type=float,
        help=f"seconds measured: of a ramp those of one step, of a spike those before it (default: {durations})",
    )
    group.add_argument("--factor", type=float, help=f"by how much a step or a spike is faster (default: {factors})")
    group.add_argument(
        "--max-rate", type=float, default=default.max_rate, help="at which a ramp ends (default %(default)s)"
    )
    group.add_argument(
        "--spike-duration", type=float, default=default.spike_duration, help="seconds (default %(default)s)"
    )
    group.add_argument(
        "--recovery-duration",
        type=float,
        default=default.recovery_duration,
        help="seconds that are measured after a spike (default %(default)s)",
    )
    group.add_argument(
        "--warm-up", type=float, default=default.warm_up, help="seconds before anything counts (default %(default)s)"
    )


def prepare(options: Namespace) -> tuple[Schedule, Objectives]:
    """Check everything that can be checked before a request is sent. Raises ``PinRecError``."""
    for name in ("users", "request_timeout"):
        value = getattr(options, name)
        require(value > 0, f"--{name.replace('_', '-')}", value, "a value above 0", error=ConfigError)
    for name in ("json", "html"):  # a run of hours must not end with a file that cannot be written
        file = getattr(options, name)
        folder = Path(file or "-").parent
        require(folder.is_dir(), f"--{name}", file, "a file in a folder that exists", error=ConfigError)
    options.server_pid = _process(options.server_pid)
    mix = Mix.load(options.mix)
    mix.weighted_types(Workload.load(Path(options.dataset), mix.draw), writes=not options.no_writes)
    return shape_options(options).schedule(Shape(options.shape)), Objectives.load(Path(options.slo))


def _process(text: str | None) -> int | None:
    """The id of the server's process. Raises ``ConfigError``."""
    if text is None:
        return None
    pid = os.getppid() if text == "parent" else int(text) if text.isdecimal() else 0
    require(Path(f"/proc/{pid}/smaps_rollup").exists(), "--server-pid", text,
            "the id of a process on this machine, or parent", error=ConfigError)  # fmt: skip
    return pid


def shape_options(options: Namespace) -> ShapeOptions:
    """The numbers of the shape among parsed options. Raises ``ConfigError``.

    Locust's web interface puts a text where the default of an option is ``None``, and an empty one for no value.
    """
    values = {field.name: getattr(options, field.name) for field in fields(ShapeOptions)}
    given = {name: _number(name, value) for name, value in values.items() if value not in (None, "")}
    return ShapeOptions(**given)


def _number(name: str, value: str | float) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ConfigError(f"{name}={value!r}: expected a number") from error
