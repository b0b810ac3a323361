"""The whole ensemble: the real Triton through the real client, against the same stages called in process.

With one request at a time, the ratio is the overhead of the ensemble itself: gRPC, scheduling, and tensors that pass
between the stage processes through shared memory. With C clients, each asks again as soon as it is answered, and the
baseline answers C requests as one batch. Bursts with silence between them show whether a batcher waits for requests
that do not come, because nothing follows the last request of a burst. The rows of the stages give their time in
process, with Triton's own counters beside it.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pinrec_client import PinRecClient

from benchmarks.demo import pinrec_command
from benchmarks.options import Options, Progress
from benchmarks.pipeline import Pipeline, request_tensors
from benchmarks.report import Result, Row, Value, compare
from benchmarks.timing import Timing, time_together
from load_tests import server_statistics
from load_tests.server_statistics import ModelTime
from pinrec_cli.closed_loop import NUM_ITEMS, REQUEST_TIMEOUT, UserId, asking, closed_loop
from pinrec_core.contract import PIPELINE
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.errors import ServerError

BASELINE = "in process"
SERVED = "client → Triton"
CONCURRENCIES = (1, 2, 4, 8, 16)
BURST = 4
BURSTS = 20
BURST_SPACING = 0.003  # seconds between the requests of a burst
SILENCE = 0.2  # seconds between bursts
USERS = 256
STOP_TIMEOUT = 90.0


def run(options: Options, progress: Progress) -> Result:
    rows: list[Row] = []
    for threads in options.threads_compared:
        progress(f"threads={threads}: starting the server")
        with tempfile.TemporaryDirectory(prefix="pinrec-benchmarks-") as folder:
            store = Path(folder) / "realtime"
            with served(options, store, threads) as url:
                pipeline = Pipeline(options.prepared.parameters(realtime=store, threads=threads))
                rows += _measure(options, pipeline, url, threads, progress)
    release = options.prepared.release.manifest
    settings = {
        "dataset": release.dataset.name, "V": release.dataset.num_items, "layers": release.model.layers,
        "H": release.model.hidden_width, "T": release.model.max_history, "S": release.generation.steps,
        "W": len(release.generation.offsets), "O": release.model.num_conditions, "N": NUM_ITEMS,
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", ""),
    }  # fmt: skip
    return Result(benchmark="ensemble", baseline=BASELINE, settings=settings, floors=[], rows=rows)


def _measure(options: Options, pipeline: Pipeline, url: str, threads: int, progress: Progress) -> list[Row]:
    manifest = options.prepared.release.manifest.dataset
    histories = iter_histories(options.prepared.signals / "sequences")
    users = [user for user, _ in itertools.islice(histories, USERS)]
    rows: list[Row] = []
    for C in CONCURRENCIES[::2] if options.quick else CONCURRENCIES:
        progress(f"threads={threads} clients={C}")
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
        rows += compare({"threads": threads, "clients": str(C)}, ordered, BASELINE, more=more)
    progress(f"threads={threads} bursts of {BURST}")
    timings = time_together(_in_process(pipeline, users, BURST, manifest), seconds=options.seconds)
    bursts = {BASELINE: timings[BASELINE], SERVED: _bursts(url, users)}
    rows += compare({"threads": threads, "clients": f"bursts of {BURST}"}, bursts, BASELINE)
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


@contextmanager
def served(options: Options, store: Path, threads: int) -> Iterator[str]:
    """Run ``pinrec serve`` on free ports with a real-time store of its own, and yield its gRPC address.

    Raises ``ServerError`` when it does not start.
    """
    folders = options.prepared.folders
    grpc, http, metrics = _free_ports(3)
    command = [
        *pinrec_command(), "serve", "--release", folders.release, "--signals", folders.signals, "--realtime", store,
        "--threads", threads, "--grpc-port", grpc, "--http-port", http, "--metrics-port", metrics,
        "--log-dir", store.parent, "--json",
    ]  # fmt: skip
    log = store.parent / "serve.log"
    with log.open("w") as errors:
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise ServerError(f"pinrec serve ended with status {process.wait(STOP_TIMEOUT)}: {log.read_text('utf-8')}")
        yield json.loads(line)["grpc"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_TIMEOUT)


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
