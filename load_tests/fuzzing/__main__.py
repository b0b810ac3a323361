"""``python -m load_tests.fuzzing``: send malformed requests, and say whether the service minds.

Half of the requests are random, half are valid ones with one thing changed, for the ensemble, the write path and every
stage. The exit status is 0; or 1 with a finding: an answer that blames the service, a call that is not answered within
its deadline, a message that tells too much, a neighbour whose answer changed, a process that ended, memory that grew;
or 2 when the dataset or the service cannot be used.

Events are written for users whom no log holds. Still, use a store whose content does not matter.
"""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil
from rich.console import Console
from rich.table import Table
from tritonclient.utils import InferenceServerException

from load_tests.fuzzing.messages import Answer, Caller, Case
from load_tests.fuzzing.mutations import mutated, random_case
from load_tests.fuzzing.neighbours import CHANGED, FAILED, Neighbours
from load_tests.fuzzing.processes import Processes, triton_address
from load_tests.fuzzing.valid import ValidRequests
from load_tests.fuzzing.verdict import explanation, finding, left_out
from pinrec_core.errors import PinRecError

SHOWN = 20  # findings that are printed; the JSON has all
MIB = 1 << 20


@dataclass(kw_only=True)
class Tally:
    """What was sent and answered."""

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)  # by model and status
    changes: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    left_out: int = 0
    slowest: float = 0.0  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.requests < 1:
        parser.error(f"--requests={options.requests}: expected a number of at least 1")
    console = Console(stderr=options.json == "-", width=None if sys.stdout.isatty() else 120)
    try:
        if options.stage_url is None and options.server_pid is not None:
            options.stage_url = triton_address(options.server_pid)
        valid = ValidRequests(Path(options.dataset), options.url, options.deadline, stage_url=options.stage_url)
        neighbours = Neighbours(valid, options.url, options.deadline)
        tally, before, after = _run(options, valid, neighbours)
    except PinRecError as error:
        parser.error(str(error))
    except InferenceServerException as error:
        parser.error(f"--url={options.url}: {error.message()}")
    except psutil.NoSuchProcess:
        parser.error(f"--server-pid={options.server_pid}: expected the number of a process that runs")
    tally.findings += [f"neighbour: {fault}" for fault in neighbours.faults]
    tally.findings += _process_findings(before, after, options.max_growth_mib)
    _print(console, tally, neighbours, before, after)
    if options.json is not None:
        document = json.dumps(_document(options, valid, tally, neighbours, before, after), indent=2)
        print(document) if options.json == "-" else Path(options.json).write_text(document + "\n", "utf-8")
    return 1 if tally.findings else 0


def case_of(number: int, seed: int, valid: ValidRequests) -> Case:
    """Request ``number``: the even ones are nearly valid, the odd ones random."""
    random = Random(f"{seed}/{number}")
    known = valid.draw(random)
    return mutated(random, known) if number % 2 == 0 else random_case(random, valid.models, known)


def _run(
    options: Namespace, valid: ValidRequests, neighbours: Neighbours
) -> tuple[Tally, Processes | None, Processes | None]:
    """Send all requests. The processes are looked at after the first tenth of them, and at the end."""
    tally = Tally()
    callers = [_Callers(options, valid) for _ in range(options.clients)]
    neighbours.start()
    try:
        with ThreadPoolExecutor(options.clients) as pool:
            warm = max(options.requests // 10, 1)
            for first, end in ((0, warm), (warm, options.requests)):
                parts = [range(first + n, end, options.clients) for n in range(options.clients)]
                for _ in pool.map(lambda caller, part: _send(caller, part, options, valid, tally), callers, parts):
                    pass
                if first == 0:
                    before = None if options.server_pid is None else Processes.of(options.server_pid)
    finally:
        neighbours.stop()
        for caller in callers:
            caller.close()
    _still_answers(options, valid, tally)
    return tally, before, None if options.server_pid is None else Processes.of(options.server_pid)


class _Callers:
    """One client: a connection for the models that are offered, and one to Triton itself for the stages."""

    def __init__(self, options: Namespace, valid: ValidRequests) -> None:
        self._stages = valid.stages
        self._offered = Caller(options.url, options.deadline)
        self._inner = Caller(options.stage_url or options.url, options.deadline)
        self._front = options.stage_url not in (None, options.url)

    def send(self, case: Case) -> Answer | None:
        """None where the request is left out."""
        direct = case.model in self._stages
        if (direct or not self._front) and left_out(case):
            return None
        return (self._inner if direct else self._offered).send(case.encode())

    def close(self) -> None:
        self._offered.close()
        self._inner.close()


def _send(caller: _Callers, numbers: range, options: Namespace, valid: ValidRequests, tally: Tally) -> None:
    for number in numbers:
        case = case_of(number, options.seed, valid)
        started = time.monotonic()
        answer = caller.send(case)
        if answer is None:
            tally.left_out += 1
            continue
        tally.slowest = max(tally.slowest, time.monotonic() - started)
        name = case.model.partition("__")[0] if case.model in valid.models else "(another name)"
        tally.statuses[name, answer.code] += 1
        tally.changes[case.change] += 1
        if why := explanation(answer):
            tally.explained[f"{answer.code}: {why}"] += 1
        if wrong := finding(case, answer):
            tally.findings.append(f"request {number}, {name}, {case.change}: {wrong}")


def _still_answers(options: Namespace, valid: ValidRequests, tally: Tally) -> None:
    """Every model still answers a valid request."""
    caller = _Callers(options, valid)
    random = Random(options.seed)
    left = set(valid.models)
    while left:
        case = valid.draw(random)
        if case.model in left:
            left.remove(case.model)
            answer = caller.send(case)
            if answer is None or answer.code != "OK":
                tally.findings.append(f"afterwards {case.model} answers a valid request with {answer}")
    caller.close()


def _process_findings(before: Processes | None, after: Processes | None, max_growth_mib: int) -> list[str]:
    if before is None or after is None:
        return []
    found = [f"process {pid} ({name}) has ended" for pid, name in before.serving.items() if pid not in after.serving]
    if not after.serving:
        found.append("no process of Triton is left")
    grown = after.private_bytes + after.shared_bytes - before.private_bytes - before.shared_bytes
    if grown > max_growth_mib * MIB:
        found.append(f"memory has grown by {grown // MIB} MiB: expected at most {max_growth_mib}")
    return found


def _print(
    console: Console, tally: Tally, neighbours: Neighbours, before: Processes | None, after: Processes | None
) -> None:
    table = Table("model", "answered", "requests", title="malformed requests")
    for (model, code), count in sorted(tally.statuses.items()):
        table.add_row(model, code, f"{count:,}")
    console.print(table)
    for why, count in tally.explained.items():
        console.print(f"{count:,} of them {why}")
    if tally.left_out:
        console.print(f"{tally.left_out:,} were left out: Triton alone does not survive them (docs/operate/limits.md)")
    counts = ", ".join(f"{count:,} {word}" for word, count in neighbours.counts.items())
    console.print(f"neighbours: {counts}; the slowest took {neighbours.slowest:.2f} s")
    if before is not None and after is not None:
        private, shared = (
            [getattr(p, name) // MIB for p in (before, after)] for name in ("private_bytes", "shared_bytes")
        )
        console.print(
            f"{len(after.serving)} processes serve; "
            f"memory {private[0]} → {private[1]} MiB, shared {shared[0]} → {shared[1]} MiB"
        )
    for line in tally.findings[:SHOWN]:
        console.print(f"finding: {line}", markup=False, highlight=False)
    console.print(f"{len(tally.findings)} findings in {sum(tally.changes.values()):,} requests")


def _document(
    options: Namespace, valid: ValidRequests, tally: Tally, neighbours: Neighbours,
    before: Processes | None, after: Processes | None,
) -> dict[str, object]:  # fmt: skip
    statuses: dict[str, dict[str, int]] = {}
    for (model, code), count in sorted(tally.statuses.items()):
        statuses.setdefault(model, {})[code] = count
    return {
        "requests": options.requests,
        "seed": options.seed,
        "models": list(valid.models),
        "statuses": statuses,
        "changes": dict(tally.changes.most_common()),
        "explained": dict(tally.explained),
        "left_out": tally.left_out,
        "slowest_seconds": tally.slowest,
        "neighbours": dict(neighbours.counts) | {"slowest_seconds": neighbours.slowest},
        "changed_neighbours": neighbours.counts[CHANGED] + neighbours.counts[FAILED],
        "memory_bytes": [p and p.private_bytes for p in (before, after)],
        "shared_bytes": [p and p.shared_bytes for p in (before, after)],
        "findings": tally.findings,
    }


def _pid(text: str) -> int:
    return os.getppid() if text == "parent" else int(text)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m load_tests.fuzzing",
        description="Send malformed requests to a running PinRec service, beside requests whose answers are known.",
        epilog="example: python -m load_tests.fuzzing --dataset demo/dataset --server-pid $(pgrep -xo pinrec)",
    )
    parser.add_argument("--url", default="127.0.0.1:8001", help="gRPC endpoint (default %(default)s)")
    parser.add_argument("--dataset", metavar="FOLDER", required=True, help="prepared dataset whose service is tested")
    parser.add_argument("--requests", type=int, default=10_000, help="malformed requests in all (default %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed makes the same requests (default %(default)s)"
    )
    parser.add_argument("--clients", type=int, default=4, help="requests at the same time (default %(default)s)")
    parser.add_argument(
        "--deadline",
        type=float,
        default=30.0,
        help="seconds within which each has to be answered (default %(default)s)",
    )
    parser.add_argument(
        "--stage-url",
        help="where Triton listens behind the front: fuzz its stages too (default: of --server-pid)",
    )
    parser.add_argument(
        "--server-pid",
        metavar="PID",
        type=_pid,
        help="of `pinrec serve` on this machine, or `parent`: watch its processes",
    )
    parser.add_argument(
        "--max-growth-mib", type=int, default=256, help="growth of memory that is no finding (default %(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - is standard output")
    return parser


if __name__ == "__main__":
    sys.exit(main())
