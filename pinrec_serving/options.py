"""The options of a service that hold for every release it serves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pinrec_core.config.sections import GpuPrecision
from pinrec_core.contract import PIPELINE, SIGNAL_FETCH, SIGNAL_INGEST, StageSpec
from pinrec_core.errors import ConfigError, require
from pinrec_core.stages.base import RemoteServer
from pinrec_core.store_location import StoreLocation, resolved

DURABILITIES = ("process", "disk")
"""What an acknowledged event survives: the end of the process, or a crash of the machine as well."""


def default_threads() -> int:
    """Threads of a stage process: half of the cores that this process may use, at least one.

    The stages are separate processes that work on different requests at the same time. If each used all cores, they
    would compete with one another and with the server.
    """
    return max(1, len(os.sched_getaffinity(0)) // 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """Options that apply to every release served: this machine's data folders, device, threads and processes.

    ``only`` is the one stage to serve; with None, it is the ensemble. ``remotes`` gives the server of each stage that
    does not run here. Where ``signal_fetch`` does, and only there, ``signals`` is needed; ``realtime`` is None where
    the batch view is served alone. ``durability`` is what events survive once they are acknowledged, and
    ``max_lateness`` how many seconds they may be behind the clock, None without a bound. ``device`` is the generator's,
    and ``gpu_precision`` its number format on a GPU; every other stage runs on the CPU. ``threads`` bounds each stage
    process. ``compiled`` lets the generator run a program that fits the machine. ``instances`` gives the number of
    processes of a stage, where that is not one, and ``queue_delays`` the microseconds that it waits to fill a batch,
    where those are not its template's. The recall of the index is measured on one in ``recall_every`` requests, 0 for
    none. Raises ``ConfigError`` for an unknown stage, a number that is too small, or signals that are missing or not
    needed.
    """

    signals: Path | None = None
    realtime: StoreLocation | None = None
    durability: str = DURABILITIES[0]
    max_lateness: int | None = None
    only: StageSpec | None = None
    remotes: Mapping[str, RemoteServer] = field(default_factory=dict)
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
        require(self.durability in DURABILITIES, "durability", self.durability, f"one of {', '.join(DURABILITIES)}",
                error=ConfigError)  # fmt: skip
        require(self.max_lateness is None or self.max_lateness >= 1, "max_lateness", self.max_lateness,
                "a number of seconds, at least 1", error=ConfigError)  # fmt: skip
        require(self.threads >= 1, "threads", self.threads, "a number of at least 1", error=ConfigError)
        require(self.recall_every >= 0, "recall_every", self.recall_every, "a number of at least 0", error=ConfigError)
        for stage in self.remotes:
            require(stage in stages, "remote stage", stage, f"one of {stages}", error=ConfigError)
        expected = "a signals folder" if self.reads_signals else "None, as signal_fetch does not run here"
        present = self.signals is not None
        require(present == self.reads_signals, "signals", self.signals, expected, error=ConfigError)

    @property
    def stages(self) -> tuple[StageSpec, ...]:
        """The stages that are loaded of each release."""
        return PIPELINE if self.only is None else (self.only,)

    @property
    def reads_signals(self) -> bool:
        """Whether the stage that reads histories runs on this server. Then the write path does, too."""
        return SIGNAL_FETCH in self.stages and SIGNAL_FETCH.name not in self.remotes

    def parameters(self, spec: StageSpec, *, release: Path | None = None) -> dict[str, str]:
        """The parameters of a stage of ``release``, or of the write path, as Triton's configuration carries them."""
        remote = self.remotes.get(spec.name)
        writes = spec is SIGNAL_INGEST
        values = {
            "release": release and str(Path(release).resolve()),
            "signals": self.signals and str(Path(self.signals).resolve()),
            "realtime": self.realtime and resolved(self.realtime),
            "durability": self.durability if writes and self.durability != DURABILITIES[0] else None,
            "max_lateness": str(self.max_lateness) if writes and self.max_lateness is not None else None,
            "device": self.device if release else None,
            "gpu_precision": self.gpu_precision.value if release else None,
            "threads": str(self.threads) if release else None,
            "recall_every": str(self.recall_every) if release and self.recall_every else None,
            "compiled": None if self.compiled or release is None else "false",
            "remote": remote and str(remote),
        }
        return {name: value for name, value in values.items() if value}

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


def parse_remotes(texts: Sequence[str]) -> dict[str, RemoteServer]:
    """``["id_embedder=ids:8001,20"]`` → the server of each stage. Raises ``ConfigError``."""
    remotes = {}
    for text in texts:
        stage, equals, server = text.partition("=")
        require(equals != "", "remote", text, "STAGE=HOST:PORT, as in id_embedder=ids.example:8001", error=ConfigError)
        remotes[stage] = RemoteServer.parse(server)
    return remotes
