"""The whole ensemble: the real Triton through the real client, against the same stages called in process.

With one request at a time, the ratio is the overhead of the ensemble itself: gRPC, scheduling, and tensors that pass
between the stage processes through shared memory. With C clients, each asks again as soon as it is answered, and the
baseline answers C requests as one batch. Bursts with silence between them show whether a batcher waits for requests
that do not come, because nothing follows the last request of a burst. The rows of the stages give their time in
process, with Triton's own counters beside it. All of it with the plain generator, and with the compiled one where the
release has one for this machine.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from pinrec_client import PinRecClient

from benchmarks.options import Options, Progress
from benchmarks.pipeline import Pipeline, request_tensors
from benchmarks.report import Result, Row, Value, compare
from benchmarks.server import served
from benchmarks.timing import Timing, time_together
from load_tests import server_statistics
from load_tests.server_statistics import ModelTime
from pinrec_cli.closed_loop import NUM_ITEMS, REQUEST_TIMEOUT, UserId, asking, closed_loop
from pinrec_core.contract import PIPELINE
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.release.compiling import compile_for_this_machine
from pinrec_core.release.programs import fitting_program

BASELINE = "in process"
PLAIN, COMPILED = "plain", "compiled"
SERVED = "client → Triton"
CONCURRENCIES = (1, 2, 4, 8, 16)
BURST = 4
BURSTS = 20
BURST_SPACING = 0.003  # seconds between the requests of a burst
SILENCE = 0.2  # seconds between bursts
USERS = 256


def run(options: Options, progress: Progress) -> Result:
    generators = _generators(options, progress)
    rows: list[Row] = []
    for threads, generator in itertools.product(options.threads_compared, generators):
        case: dict[str, Value] = {"threads": threads, "generator": generator}
        progress(f"{_text(case)}: starting the server")
        compiled = generator == COMPILED
        arguments = ["--front", "none", "--threads", threads, "--compiled" if compiled else "--uncompiled"]
        with served(options.prepared.folders, arguments) as server:
            parameters = options.prepared.parameters(realtime=server.realtime, threads=threads)
            rows += _measure(options, Pipeline(replace(parameters, compiled=compiled)), server.url, case, progress)
    release = options.prepared.release.manifest
    settings = {
        "dataset": release.dataset.name, "V": release.dataset.num_items, "layers": release.model.layers,
        "H": release.model.hidden_width, "T": release.model.max_history, "S": release.generation.steps,
        "W": len(release.generation.offsets), "O": release.model.num_conditions, "N": NUM_ITEMS,
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", ""),
    }  # fmt: skip
    return Result(benchmark="ensemble", baseline=BASELINE, settings=settings, floors=[], rows=rows)


def _generators(options: Options, progress: Progress) -> list[str]:
    """The plain generator, and the compiled one where the release has it. That of a demo is compiled first."""
    release = options.prepared.release
    if options.release is None and not options.quick and fitting_program(release) is None:
        progress("compiling the generator")
        compile_for_this_machine(release)
    return [PLAIN, COMPILED] if fitting_program(release) else [PLAIN]


def _measure(
    options: Options, pipeline: Pipeline, url: str, case: Mapping[str, Value], progress: Progress
) -> list[Row]:
    manifest = options.prepared.release.manifest.dataset
    histories = iter_histories(options.prepared.signals / "sequences")
    users = [user for user, _ in itertools.islice(histories, USERS)]
    rows: list[Row] = []
    for C in CONCURRENCIES[::2] if options.quick else CONCURRENCIES:
        progress(f"{_text(case)} clients={C}")
        if C == 1:
            with PinRecClient(url, timeout=REQUEST_TIMEOUT) as client:
                ask = asking(client, users)
                time_together({"warm-up": ask}, seconds=options.seconds)
                before = server_statistics.read(url, REQUEST_TIMEOUT)
                timings = time_together(
                    {**_in_process(pipeline, users, C, manifest), SERVED: ask}, seconds=3 * options.seconds
                )
            throughput = 1e3 / timings[SERVED].median_ms
        else:
            timings = time_together(_in_process(pipeline, users, C, manifest), seconds=options.seconds)
            before = server_statistics.read(url, REQUEST_TIMEOUT)
            load = closed_loop(url, users, clients=C, seconds=3 * options.seconds)
            timings[SERVED], throughput = Timing.of(load.latencies_ms), load.requests_per_second
        counted = server_statistics.between(before, server_statistics.read(url, REQUEST_TIMEOUT))
        more: dict[str, dict[str, Value]] = {
            BASELINE: {"requests/s": C * 1e3 / timings[BASELINE].median_ms},
            SERVED: {"requests/s": throughput},
            **{f"· {name.partition('__')[0]}": _counted(model) for name, model in counted.items()},
        }
        ordered = {name: timings[name] for name in (BASELINE, SERVED)} | timings
        rows += compare({**case, "clients": str(C)}, ordered, BASELINE, more=more)
    progress(f"{_text(case)} bursts of {BURST}")
    timings = time_together(_in_process(pipeline, users, BURST, manifest), seconds=options.seconds)
    bursts = {BASELINE: timings[BASELINE], SERVED: _bursts(url, users)}
    rows += compare({**case, "clients": f"bursts of {BURST}"}, bursts, BASELINE)
    return rows


def _in_process(
    pipeline: Pipeline, users: Sequence[UserId], B: int, manifest: DatasetManifest
) -> dict[str, Callable[[], object]]:
    """The functions to time: all stages on batches of B rotating users, and each stage alone on one such batch."""
    requests = [request_tensors(user, NUM_ITEMS, manifest) for user in users]
    position = itertools.count(0, B)

    def chain() -> object:
        start = next(position) % (len(requests) - B + 1)
        return pipeline.run(requests[start : start + B])

    functions: dict[str, Callable[[], object]] = {BASELINE: chain}
    known = pipeline.run(requests[:B])
    for spec in PIPELINE:
        functions[f"· {spec.name}"] = partial(pipeline.run_stage, spec, known)
    return functions


def _bursts(url: str, users: Sequence[UserId]) -> Timing:
    """Latencies of all requests of ``BURSTS`` bursts by ``BURST`` clients. Raises ``PinRecClientError``."""
    clients = [PinRecClient(url, timeout=REQUEST_TIMEOUT) for _ in range(BURST)]
    functions = [asking(client, users[number::BURST]) for number, client in enumerate(clients)]

    def ask(number: int) -> float:
        time.sleep(number * BURST_SPACING)
        before = time.perf_counter()
        functions[number]()
        return (time.perf_counter() - before) * 1e3

    milliseconds: list[float] = []
    with ThreadPoolExecutor(BURST) as pool:
        list(pool.map(ask, range(BURST)))  # opens the connections
        for _ in range(BURSTS):
            milliseconds += pool.map(ask, range(BURST))
            time.sleep(SILENCE)
    for client in clients:
        client.close()
    return Timing.of(milliseconds)


def _counted(model: ModelTime) -> dict[str, Value]:
    return {"queue ms": model.queue_ms, "compute ms": model.compute_ms, "batch": model.batch_size}


def _text(case: Mapping[str, Value]) -> str:
    return " ".join(f"{name}={value}" for name, value in case.items())
