"""The ID embedder as a service of its own: the stage that calls it, against the stage that holds the tables.

Both are asked through gRPC, each on a real Triton, for the embeddings of a history of fresh Zipf keys; the difference
is what a request of the ensemble pays for the other form. The floor is a call that does nothing, once for the client,
and once more for the stage that calls the service.
"""

from __future__ import annotations

import itertools
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

from benchmarks.bench_id_embedder import zipf_keys
from benchmarks.options import Options, Progress
from benchmarks.report import Result, Row, compare
from benchmarks.timing import fastest_seconds, time_together
from pinrec_core.contract import ID_EMBEDDER
from pinrec_core.release.format import Release
from pinrec_core.stages.base import RemoteServer
from pinrec_serving.deployment import Deployment
from pinrec_serving.model_names import qualified_name
from pinrec_serving.model_repository import default_templates
from pinrec_serving.options import ServingOptions
from pinrec_serving.runtime import Endpoint, TritonServer

BASELINE = "in the server"
SERVICE = "through a service"
KEYS = (128, 512, 4096)  # or as many as the longest history of the release has
DRAWN_KEYS = 1 << 20
DEADLINE_MS = 1000.0  # nothing is to fail here; how often a shorter one would not have sufficed, the p99 says


def run(options: Options, progress: Progress) -> Result:
    release = options.prepared.release
    rows: list[Row] = []
    with ExitStack() as stack:
        progress("starting two servers")
        tables = stack.enter_context(_served(release, options.threads, None))
        caller = stack.enter_context(_served(release, options.threads, tables))
        clients = {
            name: stack.enter_context(triton.InferenceServerClient(url))
            for name, url in ((BASELINE, tables), (SERVICE, caller))
        }
        round_trip = 1e3 * fastest_seconds(clients[BASELINE].is_server_live, seconds=options.seconds)
        keys = zipf_keys(np.random.default_rng(0), DRAWN_KEYS)
        sizes = sorted({min(n, release.manifest.model.max_history) for n in KEYS})
        for n in sizes[:1] if options.quick else sizes:
            progress(f"keys={n}")
            model = qualified_name(ID_EMBEDDER.name, release.manifest.release_id)
            functions = {name: _asking(client, model, keys, n) for name, client in clients.items()}
            timings = time_together(functions, seconds=options.seconds)
            distinct = float(np.mean([len(np.unique(batch)) for batch in keys.reshape(-1, n)[:100]]))
            rows += compare(
                {"keys": n, "distinct": round(distinct), "I": release.manifest.model.id_width}, timings, BASELINE,
                floor_ms={BASELINE: round_trip, SERVICE: 2 * round_trip},
            )  # fmt: skip
    settings = {"deadline ms": DEADLINE_MS, "call that does nothing, ms": round(round_trip, 3)}
    return Result(benchmark="id_service", baseline=BASELINE, settings=settings, floors=[], rows=rows)


@contextmanager
def _served(release: Release, threads: int, service: str | None) -> Iterator[str]:
    """A server with the ID embedder alone, and its gRPC address. With ``service``, it holds the stage that calls it."""
    remotes = {} if service is None else {ID_EMBEDDER.name: RemoteServer(address=service, deadline_ms=DEADLINE_MS)}
    options = ServingOptions(only=ID_EMBEDDER, remotes=remotes, threads=threads)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    grpc, http, metrics = (s.getsockname()[1] for s in sockets)
    for s in sockets:
        s.close()
    endpoint = Endpoint(grpc_port=grpc, http_port=http, metrics_port=metrics)
    with (
        tempfile.TemporaryDirectory(prefix="pinrec-benchmarks-") as folder,
        TritonServer(endpoint=endpoint, log_folder=Path(folder)) as server,
    ):
        manifest = release.manifest
        Deployment(server, default_templates(), options).deploy(
            release_id=manifest.release_id, folder=release.folder, dataset=manifest.dataset
        )
        yield endpoint.grpc


def _asking(client: triton.InferenceServerClient, model: str, keys: np.ndarray, n: int) -> Callable[[], object]:
    """A function that asks for the next ``n`` keys at each call."""
    batches = keys[: len(keys) // n * n].reshape(-1, 1, n)
    position = itertools.count()
    name = ID_EMBEDDER.inputs[0].name

    def ask() -> object:
        tensor = triton.InferInput(name, [1, n], "INT64")
        tensor.set_data_from_numpy(batches[next(position) % len(batches)])
        return client.infer(model, [tensor]).as_numpy(ID_EMBEDDER.outputs[0].name)

    return ask
