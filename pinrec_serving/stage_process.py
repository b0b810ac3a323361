"""One stage in the Python-backend process that Triton gives it, from ``initialize`` to ``finalize``.

Every ``model.py`` is a ``ServedStage`` with a function that builds its stage. Whether the stage runs here or on another
server is decided here, alike for all. The translation between Triton and the stage is ``triton_boundary``'s.
"""

from __future__ import annotations

import functools
import locale
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pinrec_core.contract import StageSpec
from pinrec_core.stages.base import Stage, StageParameters
from pinrec_serving.heartbeat import Heartbeat
from pinrec_serving.logs import inherited_format, start_logging
from pinrec_serving.model_names import stage_and_release
from pinrec_serving.processes import stand_back
from pinrec_serving.triton_boundary import bound_texts, execute, stage_parameters

if TYPE_CHECKING:
    from pinrec_serving.remote_model import RemoteModel

LAST_ANSWERS_SECONDS = 0.5  # for the answers of the last batch to leave before the process ends
BROKEN = 70  # the exit status of a process whose stage cannot go on

Build = Callable[[StageParameters], Stage[Any]]
BuildRemote = Callable[["RemoteModel", StageParameters], Stage[Any]]

log = logging.getLogger(__name__)


class ServedStage:
    """The stage of ``spec``, made by ``build`` from the parameters in ``args``, the argument of ``initialize``.

    Where they name another server, ``remote`` makes it instead, by default as a ``RemoteStage``. The model there has
    the name that it has here, which holds the release.
    """

    def __init__(
        self, spec: StageSpec, args: Mapping[str, str], build: Build, *, remote: BuildRemote | None = None
    ) -> None:
        prepare_process(args["model_name"])
        bound_texts()
        parameters = stage_parameters(args)
        # Threads that are counted by another thread than the one that serves count for that thread alone; so it has to
        # stand here, before OpenMP is loaded.
        os.environ["OMP_NUM_THREADS"] = str(parameters.threads)
        self._spec = spec
        self._metrics = parameters.metrics
        self._heartbeat = Heartbeat(args["model_name"])
        self._elsewhere = parameters.remote is not None
        if parameters.remote is None:
            self._stage = build(parameters)
            return
        # Imported here because gRPC takes 20 MiB, which a process whose stage runs here can do without.
        from pinrec_serving.remote_model import RemoteModel
        from pinrec_serving.remote_stage import RemoteStage

        model = RemoteModel(spec, args["model_name"], parameters.remote)
        self._stage = (remote or RemoteStage)(model, parameters)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a batch. Where the stage says that it cannot go on, the process ends behind the answers."""
        with self._heartbeat.at_work():
            return execute(
                self._spec, self._stage, requests, self._metrics, broken=_end_process, passes_on=self._elsewhere
            )


def prepare_process(model: str) -> None:
    """Set up a Python-backend process of a model. Call it before anything imports torch.

    The process starts in an ASCII locale, in which ``torch.compile`` fails on its own source files.
    """
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    stage, release = stage_and_release(model)
    start_logging(inherited_format(), stage=stage, release=release)


def at_low_priority(build: Build) -> Build:
    """``build``, but behind what else the machine does: a swap loads stages beside those that serve.

    A thread may lower its priority but not raise it again, so a thread of its own does it and ends with it. Threads
    that it starts stay at the low priority; a pool of OpenMP's is made anew for the thread that serves.
    """

    @functools.wraps(build)
    def built(parameters: StageParameters) -> Stage[Any]:
        with ThreadPoolExecutor(1, thread_name_prefix="loading", initializer=stand_back) as loader:
            return loader.submit(build, parameters).result()

    return built


def _end_process() -> None:
    log.error("this stage cannot go on; its process ends, and is started again by its owner")
    threading.Timer(LAST_ANSWERS_SECONDS, os._exit, (BROKEN,)).start()
