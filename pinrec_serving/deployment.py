"""Decides which release a running server serves: it deploys a release, swaps it for another and drains the server.

The stages of a new release are loaded beside those that serve, under names that contain the release. Loading the
ensemble that names them is the switch. Triton lets requests in flight finish on the stages they began with, so no
answer comes from a mixture of releases. A stage that is served alone has no ensemble: its callers switch, each in its
own time, so the earlier release stays loaded as well. This module uses the server through its model-control API alone.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pinrec_core.config.sections import GpuPrecision
from pinrec_core.contract import ENSEMBLE, PIPELINE, SIGNAL_INGEST, StageSpec
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import ConfigError, ServerError, require
from pinrec_core.stages.base import RemoteServer
from pinrec_serving.model_control import UNLOAD_TIMEOUT, ModelControl
from pinrec_serving.model_names import qualified_name
from pinrec_serving.model_repository import IdKinds, write_ensemble, write_stage
from pinrec_serving.runtime import TritonServer

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

    ``only`` is the one stage to serve; with None, it is the ensemble, which needs ``signals``. ``realtime`` is None
    where the batch view is served alone. ``id_embedder`` is the server that looks up ID embeddings for the ensemble;
    with None, it does so itself. ``device`` is the generator's, and ``gpu_precision`` its number format on a GPU; every
    other stage runs on the CPU. ``threads`` bounds each stage process. ``compiled`` lets the generator run a program
    that fits the machine. ``instances`` gives the number of processes of a stage, where that is not one, and
    ``queue_delays`` the microseconds that it waits to fill a batch, where those are not its template's. The
    recall of the index is measured on one in ``recall_every`` requests, 0 for none. Raises ``ConfigError`` for an
    unknown stage, a number that is too small, or an ensemble without signals.
    """

    signals: Path | None = None
    realtime: Path | None = None
    only: StageSpec | None = None
    id_embedder: RemoteServer | None = None
    device: str = "cpu"
    gpu_precision: GpuPrecision = GpuPrecision.FP16
    threads: int = field(default_factory=default_threads)
    compiled: bool = True
    instances: Mapping[str, int] = field(default_factory=dict)
    queue_delays: Mapping[str, int] = field(default_factory=dict)
    recall_every: int = 0

    def __post_init__(self) -> None:
        stages = [spec.name for spec in PIPELINE]
        for stage, count in self.instances.items():
            require(stage in stages, "instances stage", stage, f"one of {stages}", error=ConfigError)
            require(count >= 1, f"instances {stage}", count, "a number of at least 1", error=ConfigError)
        for stage, delay in self.queue_delays.items():
            require(stage in stages, "queue_delays stage", stage, f"one of {stages}", error=ConfigError)
            require(delay >= 0, f"queue_delays {stage}", delay, "a number of at least 0", error=ConfigError)
        require(self.threads >= 1, "threads", self.threads, "a number of at least 1", error=ConfigError)
        require(self.recall_every >= 0, "recall_every", self.recall_every, "a number of at least 0", error=ConfigError)
        if self.only is None:
            require(self.signals is not None, "signals", self.signals, "a signals folder", error=ConfigError)

    @property
    def stages(self) -> tuple[StageSpec, ...]:
        """The stages that are loaded of each release."""
        return PIPELINE if self.only is None else (self.only,)

    @property
    def releases_kept(self) -> int:
        """Releases that stay loaded after a swap: a stage alone serves its callers' earlier one until the next swap."""
        return 1 if self.only is None else 2


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
        self._control = ModelControl(server)
        self._releases: list[str] = []  # those that are loaded; the last one serves

    @property
    def release_id(self) -> str | None:
        """The release that serves; None before the first one."""
        return self._releases[-1] if self._releases else None

    def deploy(self, *, release_id: str, folder: Path, dataset: DatasetManifest) -> None:
        """Serve the release in ``folder`` from now on. A release that is served already is left as it is.

        Raises ``ServerError`` when a stage cannot load it. The earlier release, if any, then goes on serving.
        """
        if release_id == self.release_id:
            return
        if release_id in self._releases:  # the one before is loaded still: back to it
            self._releases.remove(release_id)
        else:
            self._load(release_id, folder, IdKinds(user_id=dataset.user_id_kind, item_id=dataset.item_id_kind))
        self._releases.append(release_id)
        while len(self._releases) > self._options.releases_kept:
            earlier = self._releases.pop(0)
            self._progress(f"unloading {earlier}")
            self._remove(self._names(earlier))

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

        Only the models that a client calls are unloaded: the accepted requests of an ensemble still need its stages.
        """
        deadline = time.monotonic() + timeout
        entrances = [ENSEMBLE.name, SIGNAL_INGEST.name]
        if self._options.only is not None:
            entrances = [name for release_id in self._releases for name in self._names(release_id).values()]
        for name in entrances:
            self._control.unload(name)
        return self._control.wait_unloaded(entrances, deadline)

    def _load(self, release_id: str, folder: Path, ids: IdKinds) -> None:
        """Load the stages of a release, and the ensemble that names them, which is the switch."""
        names = self._names(release_id)
        try:
            for spec in self._options.stages:
                self._progress(f"loading {names[spec.name]}")
                write_stage(
                    self._repository, self._templates, spec,
                    name=names[spec.name], ids=ids,
                    parameters=self._parameters(release=folder),
                    instances=self._options.instances.get(spec.name),
                    queue_delay_us=self._options.queue_delays.get(spec.name),
                )  # fmt: skip
                self._control.load(names[spec.name])
            if self._options.only is None:
                self._progress(f"switching to {release_id}")
                write_ensemble(self._repository, self._templates, release_id=release_id, ids=ids)
                self._control.load(ENSEMBLE.name)
        except BaseException:
            self._remove(names)
            raise

    def _names(self, release_id: str) -> dict[str, str]:
        """Stage → the name under which it is loaded, in the order in which a request passes the stages."""
        return {spec.name: qualified_name(spec.name, release_id) for spec in self._options.stages}

    def _parameters(self, *, release: Path | None = None) -> dict[str, str]:
        options = self._options
        values = {
            "release": release and str(Path(release).resolve()),
            "signals": options.signals and str(Path(options.signals).resolve()),
            "realtime": options.realtime and str(Path(options.realtime).resolve()),
            "device": options.device if release else None,
            "gpu_precision": options.gpu_precision.value if release else None,
            "threads": str(options.threads) if release else None,
            "recall_every": str(options.recall_every) if release and options.recall_every else None,
            "compiled": None if options.compiled or release is None else "false",
        }
        if release and options.id_embedder is not None:
            values["id_embedder"] = options.id_embedder.address
            values["id_embedder_deadline_ms"] = str(options.id_embedder.deadline_ms)
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
