"""Decides which release a running server serves: it deploys a release, swaps it for another and drains the server.

The stages of a new release are loaded beside those that serve, under names that contain the release. A request through
an ensemble of their own shows that they answer. Then loading the ensemble that names them is the switch. Triton lets
requests in flight finish on the stages they began with, so no answer comes from a mixture of releases. A stage that is
served alone has no ensemble: its callers switch, each in its own time, so the earlier release stays loaded as well.

When the process of a stage ends, what clients call is unloaded at once: the service is not ready and refuses requests,
instead of failing them one by one. It is loaded again behind the stage. This module uses the server through its
model-control API alone.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pinrec_core.contract import ENSEMBLE, SIGNAL_INGEST, StageSpec
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import ServerError
from pinrec_core.release.in_use import using_release
from pinrec_serving.heartbeat import stage_processes
from pinrec_serving.model_control import UNLOAD_TIMEOUT, ModelControl
from pinrec_serving.model_names import qualified_name
from pinrec_serving.model_repository import IdKinds, write_ensemble, write_stage
from pinrec_serving.options import ServingOptions
from pinrec_serving.runtime import TritonServer
from pinrec_serving.smoke_test import check_answer

log = logging.getLogger(__name__)


class Deployment:
    """The release that one server serves, and the ways to change it.

    One thread changes it; another one may call ``process_ended`` and ``drain`` meanwhile, and any one ask ``ready``.
    """

    def __init__(
        self,
        server: TritonServer,
        templates: Path,
        options: ServingOptions,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._repository = server.repository
        self._heartbeats = server.heartbeats
        self._templates = Path(templates)
        self._options = options
        self._progress = progress
        self._control = ModelControl(server)
        self._releases: list[str] = []  # those that are loaded; the last one serves
        self._held: dict[str, ExitStack] = {}  # their folders, which nothing may remove meanwhile
        self._lock = threading.Lock()  # of what follows, and of loading and unloading what clients call
        self._entrance_of: Mapping[str, str] = {}  # stage that serves → the model through which clients reach it
        self._served: tuple[str, IdKinds] | None = None  # the release that the ensemble names, and its ids
        self._ended: set[str] = set()  # stages of which a process has ended since they were loaded
        self._away: set[str] = set()  # stages that serve, once they and their entrance are loaded again
        self._dismissed: set[int] = set()  # processes that end because their stage was unloaded
        self._draining = False

    @property
    def release_id(self) -> str | None:
        """The release that serves; None before the first one."""
        return self._releases[-1] if self._releases else None

    @property
    def stages(self) -> tuple[StageSpec, ...]:
        """The stages that are loaded of each release."""
        return self._options.stages

    @property
    def ready(self) -> bool:
        """Whether requests for recommendations are answered."""
        # Without the lock, which is held while Triton loads or unloads what clients call: whoever asks need not wait.
        serving = [stage for stage, entrance in self._entrance_of.items() if entrance != SIGNAL_INGEST.name]
        lost = self._ended | self._away
        return bool(serving) and lost.isdisjoint(serving) and not self._draining

    def deploy(
        self, *, release_id: str, folder: Path, dataset: DatasetManifest, between: Callable[[], None] = lambda: None
    ) -> None:
        """Serve the release in ``folder`` from now on. A release that is served already is left as it is.

        ``between`` is called between the steps; it may call ``restart``, and raise what shall end the attempt. Raises
        ``ReleaseError`` when there is no such folder, ``ServerError`` when a stage cannot load it, when it answers
        wrongly or the server drains, and ``OSError`` when a model cannot be written. The earlier release, if any, then
        goes on serving, and nothing of the new one is left in a server that does not drain.
        """
        if release_id == self.release_id:
            return
        if release_id in self._releases:  # the one before is loaded still: back to it
            self._releases.remove(release_id)
        else:
            with ExitStack() as stack:
                stack.enter_context(using_release(folder))
                self._load(release_id, folder, dataset, between)
                self._held[release_id] = stack.pop_all()
        self._releases.append(release_id)
        while len(self._releases) > self._options.releases_kept:
            earlier = self._releases.pop(0)
            self._progress(f"unloading {earlier}")
            self._remove(list(self._names(earlier).values()))
            self._held.pop(earlier).close()

    def deploy_ingest(self, dataset: DatasetManifest) -> None:
        """Load the write path. It belongs to the signals folder, not to a release, so swaps leave it loaded."""
        self._progress(f"loading {SIGNAL_INGEST.name}")
        write_stage(
            self._repository, self._templates, SIGNAL_INGEST,
            name=SIGNAL_INGEST.name, ids=IdKinds.of(dataset), parameters=self._options.parameters(SIGNAL_INGEST),
        )  # fmt: skip
        self._control.load(SIGNAL_INGEST.name)
        with self._lock:
            self._entrance_of = {**self._entrance_of, SIGNAL_INGEST.name: SIGNAL_INGEST.name}

    def process_ended(self, stage: str, pid: int) -> bool:
        """Take back what clients call, if ``stage`` serves it; to be called once a process of it has ended.

        Returns whether ``restart`` has to be called. That is so for the first process that ends of a stage that serves,
        and then not until a restart has succeeded. Raises ``ServerError`` when Triton does not answer.
        """
        with self._lock:
            if pid in self._dismissed:
                self._dismissed.discard(pid)
                return False
            self._ended.add(stage)  # also of one that is only being loaded: it must not begin to serve
            entrance = self._entrance_of.get(stage)
            if entrance is None or self._draining:
                return False
            self._unload(entrance)
            is_first = stage not in self._away
            self._away.add(stage)
            return is_first

    def restart(self, stage: str) -> bool:
        """Load a stage of which a process has ended again, and what clients call. False when it serves no longer.

        Raises ``ServerError`` when either cannot be loaded; it has to be tried again.
        """
        with self._lock:
            if stage not in self._away or self._draining:
                return False
            self._unload(stage)  # Triton takes it for loaded, and would leave it as it is
            self._ended.discard(stage)  # from here on it is the new processes that may end
        self._control.load(stage)
        with self._lock:
            entrance = self._entrance_of[stage]
            if self._draining:
                self._unload(entrance)
                return False
            if stage in self._ended:
                raise ServerError("its process has ended again")
            others = {name for name, through in self._entrance_of.items() if through == entrance and name != stage}
            if entrance != stage and self._away.isdisjoint(others):
                self._control.load(entrance)
            self._away.discard(stage)
        return True

    def drain(self, timeout: float) -> bool:
        """Refuse new requests and wait for the accepted ones. False when some are in flight after ``timeout`` seconds.

        Only the models that a client calls are unloaded: the accepted requests of an ensemble still need its stages.
        A release that is being loaded does not begin to serve any more, nor does a stage that is loaded again.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            self._draining = True
            entrances = sorted({*self._entrance_of.values(), ENSEMBLE.name, SIGNAL_INGEST.name})
            for name in entrances:
                self._control.unload(name)
        return self._control.wait_unloaded(entrances, deadline)

    def _load(self, release_id: str, folder: Path, dataset: DatasetManifest, between: Callable[[], None]) -> None:
        """Load the stages of a release and, unless one is served alone, the ensemble that names them: the switch."""
        names = self._names(release_id)
        with self._lock:
            self._ended.difference_update(names.values())  # of an earlier attempt
        trial = qualified_name(ENSEMBLE.name, release_id)
        try:
            for spec in self._options.stages:
                between()
                self._progress(f"loading {names[spec.name]}")
                write_stage(
                    self._repository, self._templates, spec,
                    name=names[spec.name], ids=IdKinds.of(dataset),
                    parameters=self._options.parameters(spec, release=folder),
                    instances=self._options.instances.get(spec.name),
                    queue_delay_us=self._options.queue_delays.get(spec.name),
                )  # fmt: skip
                self._control.load(names[spec.name])
            if self._options.only is None:
                between()
                self._load_ensemble(trial, release_id, IdKinds.of(dataset))
                check_answer(self._control, trial, release_id, dataset)
                self._progress(f"switching to {release_id}")
            self._switch(release_id, names, IdKinds.of(dataset))
        except BaseException:
            self._remove([trial, *names.values()])
            raise
        self._remove([trial])

    def _switch(self, release_id: str, names: Mapping[str, str], ids: IdKinds) -> None:
        with self._lock:
            if self._draining:
                raise ServerError("the service drains")
            if ended := sorted(self._ended.intersection(names.values())):
                raise ServerError(f"the process of {', '.join(ended)} has ended")
            if self._options.only is not None:
                self._entrance_of = {**self._entrance_of, **{name: name for name in names.values()}}
                return
            try:
                self._load_ensemble(ENSEMBLE.name, release_id, ids)
            except BaseException:
                if self._served is not None:  # a restart loads what is written
                    self._write_ensemble(ENSEMBLE.name, *self._served)
                raise
            self._served = release_id, ids
            kept = {stage: through for stage, through in self._entrance_of.items() if through != ENSEMBLE.name}
            self._entrance_of = kept | dict.fromkeys(names.values(), ENSEMBLE.name)

    def _load_ensemble(self, name: str, release_id: str, ids: IdKinds) -> None:
        self._write_ensemble(name, release_id, ids)
        self._control.load(name)

    def _write_ensemble(self, name: str, release_id: str, ids: IdKinds) -> None:
        write_ensemble(self._repository, self._templates, name=name, release_id=release_id, ids=ids)

    def _names(self, release_id: str) -> dict[str, str]:
        """Stage → the name under which it is loaded, in the order in which a request passes the stages."""
        return {spec.name: qualified_name(spec.name, release_id) for spec in self._options.stages}

    def _unload(self, name: str) -> None:
        """Unload a model, whose processes end then, without more ado. Call it with the lock.

        Triton does not wait for that. A process that ends only after the stage was loaded again is none of the new
        ones.
        """
        self._control.unload(name)
        processes = stage_processes(self._heartbeats)  # those of earlier unloads may still be about to end
        self._dismissed = {p.pid for p in processes if p.model == name or p.pid in self._dismissed}

    def _remove(self, names: list[str]) -> None:
        """Unload models and delete their folders. A failure here must not undo a swap, so it is only logged."""
        loaded = [name for name in names if (self._repository / name).is_dir()]
        with self._lock:
            if self._draining:  # everything ends with the server, which may have stopped already
                return
            self._entrance_of = {stage: through for stage, through in self._entrance_of.items() if stage not in loaded}
            self._away.difference_update(loaded)
        with _only_logged():
            for process in stage_processes(self._heartbeats):
                if process.model in loaded:
                    process.stand_back()
        for name in loaded:
            with _only_logged(), self._lock:
                self._unload(name)
        with _only_logged():
            if not self._control.wait_unloaded(loaded, time.monotonic() + UNLOAD_TIMEOUT):
                log.warning("%s still hold requests after %.0f s", ", ".join(loaded), UNLOAD_TIMEOUT)
        for name in loaded:
            shutil.rmtree(self._repository / name, ignore_errors=True)
        with self._lock:
            self._ended.difference_update(loaded)


@contextmanager
def _only_logged() -> Iterator[None]:
    try:
        yield
    except (ServerError, OSError) as error:
        log.warning("%s", error)
