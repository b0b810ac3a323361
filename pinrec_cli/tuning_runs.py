"""Measures settings on this machine: a real server for each of them, with clients that ask as fast as it answers."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

from pinrec_cli.closed_loop import closed_loop
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.errors import DataError
from pinrec_core.release.format import Release
from pinrec_serving.deployment import Deployment
from pinrec_serving.front import private_endpoint
from pinrec_serving.installation import TritonSource
from pinrec_serving.options import ServingOptions
from pinrec_serving.runtime import TritonServer
from pinrec_serving.tuning import Setting

USERS = 256
WARM_UP_SECONDS = 1.0


def measuring(
    release: Release,
    signals: Path,
    *,
    templates: Path,
    device: str,
    clients: int,
    seconds: float,
    source: TritonSource,
) -> Callable[[Setting], float]:
    """A function that serves ``release`` with a setting and returns the requests per second of ``clients`` clients.

    Each call starts a server and stops it again, with ports and an empty real-time store of its own. Raises
    ``DataError`` where the signals hold no user, and the function ``ServerError`` where the server cannot start or
    answer.
    """
    users = [user for user, _ in itertools.islice(iter_histories(signals / "sequences"), USERS)]
    if not users:
        raise DataError(f"{signals}: expected users with a history")
    dataset = DatasetManifest.load(signals)

    def measure(setting: Setting) -> float:
        with tempfile.TemporaryDirectory(prefix="pinrec-tune-") as folder:
            options = ServingOptions(
                signals=signals, realtime=Path(folder) / "realtime", device=device, threads=setting.threads,
                compiled=setting.compiled, instances=setting.instances, queue_delays=setting.queue_delays,
            )  # fmt: skip
            endpoint = private_endpoint()
            with TritonServer(endpoint=endpoint, log_folder=Path(folder), source=source) as server:
                deployment = Deployment(server, templates, options)
                deployment.deploy_ingest(dataset)
                manifest = release.manifest
                deployment.deploy(release_id=manifest.release_id, folder=release.folder, dataset=manifest.dataset)
                closed_loop(endpoint.grpc, users, clients=clients, seconds=WARM_UP_SECONDS)
                return closed_loop(endpoint.grpc, users, clients=clients, seconds=seconds).requests_per_second

    return measure
