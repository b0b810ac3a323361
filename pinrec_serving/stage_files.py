"""Reads the metrics that stage processes wrote (``stage_metrics``), and keeps their folder small.

A process leaves its files behind when it ends. Its gauges are then dropped. What it had counted is added to one file
for all processes that ended, so that no counter of a stage falls, and is forgotten some time after the last process of
its release has ended.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from pinrec_serving.processes import has_ended

ENDED = "ended"
"""Stands in the place of the process id in the names of the files for processes that ended."""
COUNTED = ("counter", "histogram")
KEPT_SECONDS = 600.0
"""How long the counts of an unloaded release are shown, so that Prometheus gets the last of them."""


@dataclass(frozen=True, slots=True)
class MeasuredProcess:
    """A living process that records metrics. ``release`` is empty where the stage belongs to none."""

    pid: int
    stage: str
    release: str


class StageFiles:
    """A collector for a registry of `prometheus_client`. Not for use by several threads.

    ``alive`` says whether a process still runs, and ``clock`` gives the time in seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        alive: Callable[[int], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = Path(folder)
        self._alive = alive or (lambda pid: not has_ended(pid))
        self._clock = clock
        self._last_seen: dict[str, float] = {}  # release → when a process of it was alive

    def collect(self) -> Iterable[Metric]:
        self.clean()
        return MultiProcessCollector.merge([str(path) for path in self._files()], accumulate=True)

    def processes(self) -> list[MeasuredProcess]:
        """The living processes that have recorded something, by process id."""
        found = {}
        for path in self._files():
            owner = _owner(path)
            if owner == ENDED or not self._alive(int(owner)):
                continue
            if (labels := _first_labels(path)) is not None:
                found[int(owner)] = MeasuredProcess(int(owner), labels["stage"], labels["release"])
        return [found[pid] for pid in sorted(found)]

    def _files(self) -> list[Path]:
        # A file of no bytes was opened a moment ago.
        return sorted(path for path in self._folder.glob("*.db") if path.stat().st_size > 0)

    def clean(self) -> None:
        """Put away what ended processes left. Call it now and then where nobody calls ``collect``."""
        now = self._clock()
        self._last_seen |= {process.release: now for process in self.processes()}
        files = self._files()
        dead = [path for path in files if _owner(path) != ENDED and not self._alive(int(_owner(path)))]
        for labels in map(_first_labels, dead):
            if labels is not None:
                self._last_seen.setdefault(labels["release"], now)
        forgotten = {release for release, seen in self._last_seen.items() if release and now - seen > KEPT_SECONDS}
        for kind in COUNTED:
            ended = [path for path in dead if path.name.startswith(f"{kind}_")]
            if ended or forgotten:
                self._add_up(kind, ended, forgotten)
        for path in dead:
            path.unlink()
        for release in forgotten:
            del self._last_seen[release]

    def _add_up(self, kind: str, ended: list[Path], forgotten: set[str]) -> None:
        """Add the values of ``ended`` to the file of those that ended before, without the ``forgotten`` releases."""
        whole = self._folder / f"{kind}_{ENDED}.db"
        total: dict[str, float] = defaultdict(float)
        for path in (whole, *ended):
            if path.exists():
                for key, value, *_ in MmapedDict.read_all_values_from_file(path):
                    total[key] += value
        unfinished = whole.with_suffix(".tmp")
        unfinished.unlink(missing_ok=True)
        values = MmapedDict(str(unfinished))
        for key, value in total.items():
            if _labels(key)["release"] not in forgotten:
                values.write_value(key, value, 0.0)
        values.close()
        os.replace(unfinished, whole)


def _owner(path: Path) -> str:
    return path.stem.rpartition("_")[2]


def _first_labels(path: Path) -> dict[str, str] | None:
    """The labels of the first series in a file, of which stage and release are those of all; None in an empty one."""
    return next((_labels(key) for key, *_ in MmapedDict.read_all_values_from_file(path)), None)


def _labels(key: str) -> dict[str, str]:
    """The labels of a series, from the name under which `prometheus_client` keeps its value."""
    return json.loads(key)[2]
