"""Decides which release a running server serves: it deploys a release, swaps it for another and drains the server.

The stages of a new release are loaded beside those that serve, under names that contain the release. Loading the
ensemble that names them is the switch. Triton lets requests in flight finish on the stages they began with, so no
answer comes from a mixture of releases. This module uses the server through its model-control API alone.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from pinrec_core.config.sections import GpuPrecision
from pinrec_core.contract import ENSEMBLE, PIPELINE, SIGNAL_INGEST
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import ConfigError, ServerError, require
from pinrec_serving.model_repository import IdKinds, stage_names, write_ensemble, write_stage
from pinrec_serving.runtime import TritonServer

LOAD_TIMEOUT = 1800.0  # seconds for one stage to load: on a GPU a large model is compiled for every bucket
UNLOAD_TIMEOUT = 60.0
POLL_INTERVAL = 0.1
RETURNED = ("UNAVAILABLE", "")
"""States of a model that has no requests in flight any more. While it has some, its state is UNLOADING."""

log = logging.getLogger(__name__)


def default_threads() -> int:
    """Threads of a stage process: half of the cores that this process may use, at least one.

    The stages are separate processes that work on different requests at the same time. If each used all cores, they
    would compete with one another and with the server.
    """
    return max(1, len(os.sched_getaffinity(0)) // 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """Options that apply to every release served: this machine's data folders, device, threads and processes.

    ``realtime`` is None where the batch view is served alone. ``device`` is the generator's, and ``gpu_precision`` its
    number format on a GPU; every other stage runs on the CPU. ``threads`` bounds each stage process. ``instances``
    gives the number of processes of a stage, where that is not one, and ``queue_delays`` the microseconds that it waits
    to fill a batch, where those are not its template's. Raises ``ConfigError`` for an unknown stage or a number that is
    too small.
    """

    signals: Path
    realtime: Path | None = None
    device: str = "cpu"
    gpu_precision: GpuPrecision = GpuPrecision.FP16
    threads: int = field(default_factory=default_threads)
    instances: Mapping[str, int] = field(default_factory=dict)
    queue_delays: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stages = [spec.name for spec in PIPELINE]
        for stage, count in self.instances.items():
            require(stage in stages, "instances stage", stage, f"one of {stages}", error=ConfigError)
            require(count >= 1, f"instances {stage}", count, "a number of at least 1", error=ConfigError)
        for stage, delay in self.queue_delays.items():
            require(stage in stages, "queue_delays stage", stage, f"one of {stages}", error=ConfigError)
            require(delay >= 0, f"queue_delays {stage}", delay, "a number of at least 0", error=ConfigError)
        require(self.threads >= 1, "threads", self.threads, "a number of at least 1", error=ConfigError)


def parse_instances(texts: Sequence[str]) -> dict[str, int]:
    """``["generator=2"]`` → ``{"generator": 2}``. Raises ``ConfigError``."""
    instances = {}
    for text in texts:
        stage, _, count = text.partition("=")
        require(count.isdecimal(), "instances", text, "STAGE=NUMBER, as in generator=2", error=ConfigError)
        instances[stage] = int(count)
    return instances


class Deployment:
    """The release that one server serves, and the ways to change it. Not for use by several threads."""

    def __init__(
        self,
        server: TritonServer,
        templates: Path,
        options: ServingOptions,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._repository = server.repository
        self._templates = Path(templates)
        self._options = options
        self._progress = progress
        self._control = _ModelControl(server)
        self.release_id: str | None = None

    def deploy(self, *, release_id: str, folder: Path, dataset: DatasetManifest) -> None:
        """Serve the release in ``folder`` from now on. A release that is served already is left as it is.

        Raises ``ServerError`` when a stage cannot load it. The earlier release, if any, then goes on serving.
        """
        if release_id == self.release_id:
            return
        ids = IdKinds(user_id=dataset.user_id_kind, item_id=dataset.item_id_kind)
        names = stage_names(release_id)
        try:
            for spec in PIPELINE:
                self._progress(f"loading {names[spec.name]}")
                write_stage(
                    self._repository, self._templates, spec,
                    name=names[spec.name], ids=ids,
                    parameters=self._parameters(release=folder),
                    instances=self._options.instances.get(spec.name),
                    queue_delay_us=self._options.queue_delays.get(spec.name),
                )  # fmt: skip
                self._control.load(names[spec.name])
            self._progress(f"switching to {release_id}")
            write_ensemble(self._repository, self._templates, release_id=release_id, ids=ids)
            self._control.load(ENSEMBLE.name)
        except BaseException:
            self._remove(names)
            raise
        earlier, self.release_id = self.release_id, release_id
        if earlier is not None:
            self._progress(f"unloading {earlier}")
            self._remove(stage_names(earlier))

    def deploy_ingest(self, dataset: DatasetManifest) -> None:
        """Load the write path. It belongs to the signals folder, not to a release, so swaps leave it loaded."""
        self._progress(f"loading {SIGNAL_INGEST.name}")
        ids = IdKinds(user_id=dataset.user_id_kind, item_id=dataset.item_id_kind)
        parameters = self._parameters()
        write_stage(
            self._repository, self._templates, SIGNAL_INGEST, name=SIGNAL_INGEST.name, ids=ids, parameters=parameters
        )
        self._control.load(SIGNAL_INGEST.name)

    def drain(self, timeout: float) -> bool:
        """Refuse new requests and wait for the accepted ones. False when some are in flight after ``timeout`` seconds.

        Only the two models that a client calls are unloaded: the accepted requests still need the stages.
        """
        deadline = time.monotonic() + timeout
        entrances = [ENSEMBLE.name, SIGNAL_INGEST.name]
        for name in entrances:
            self._control.unload(name)
        return self._control.wait_unloaded(entrances, deadline)

    def _parameters(self, *, release: Path | None = None) -> dict[str, str]:
        options = self._options
        values = {
            "release": release and str(Path(release).resolve()),
            "signals": str(Path(options.signals).resolve()),
            "realtime": options.realtime and str(Path(options.realtime).resolve()),
            "device": options.device if release else None,
            "gpu_precision": options.gpu_precision.value if release else None,
            "threads": str(options.threads) if release else None,
        }
        return {name: value for name, value in values.items() if value}

    def _remove(self, names: Mapping[str, str]) -> None:
        """Unload stages and delete their folders. A failure here must not undo a swap, so it is only logged."""
        loaded = [name for name in names.values() if (self._repository / name).is_dir()]
        try:
            for name in loaded:
                self._control.unload(name)
            if not self._control.wait_unloaded(loaded, time.monotonic() + UNLOAD_TIMEOUT):
                log.warning("%s still hold requests after %.0f s", ", ".join(loaded), UNLOAD_TIMEOUT)
        except ServerError as error:
            log.warning("unloading %s: %s", ", ".join(loaded), error)
        for name in loaded:
            shutil.rmtree(self._repository / name, ignore_errors=True)


class _ModelControl:
    """Triton's model-control calls. A call that fails raises ``ServerError``."""

    def __init__(self, server: TritonServer) -> None:
        self._client = triton.InferenceServerClient(server.endpoint.local.grpc)
        self._headers = server.admin_headers

    def load(self, name: str) -> None:
        try:
            self._client.load_model(name, headers=self._headers, client_timeout=LOAD_TIMEOUT)
            ready = self._client.is_model_ready(name)
        except InferenceServerException as error:
            raise ServerError(f"{name} cannot be loaded: {_sentence(error)}") from error
        if not ready:
            raise ServerError(f"{name} is loaded but not ready")

    def unload(self, name: str) -> None:
        try:
            self._client.unload_model(name, headers=self._headers, client_timeout=UNLOAD_TIMEOUT)
        except InferenceServerException as error:
            raise ServerError(f"{name} cannot be unloaded: {_sentence(error)}") from error

    def wait_unloaded(self, names: list[str], deadline: float) -> bool:
        """Wait until none of these models has requests in flight; False when ``deadline`` has passed before."""
        while True:
            states = self._states()
            if all(states.get(name, "") in RETURNED for name in names):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_INTERVAL)

    def _states(self) -> dict[str, str]:
        try:
            index = self._client.get_model_repository_index(headers=self._headers, client_timeout=UNLOAD_TIMEOUT)
        except InferenceServerException as error:
            raise ServerError(f"the server's models cannot be listed: {_sentence(error)}") from error
        return {model.name: model.state for model in index.models}


def _sentence(error: InferenceServerException) -> str:
    """The reason alone, without Triton's account of model states and without the backend's Python traceback."""
    return str(error.message()).split("UNAVAILABLE state: Internal: ")[-1].split("\n\nAt:")[0].strip("; \n")
