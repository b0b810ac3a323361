"""What every drill needs: a server under test, its processes, whether it says it is ready, and where results go."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pinrec_client import RecommendRequest

from benchmarks.demo import Folders
from benchmarks.machine import MachineCard, load_average
from benchmarks.process_memory import tree
from benchmarks.server import Served, served
from pinrec_core.contract import ENSEMBLE
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.errors import ServerError
from pinrec_core.release.current import current_release
from pinrec_core.release.manifest import MANIFEST_FILE, open_manifest

USERS = 256
NUM_ITEMS = 100
POLLING = 0.005

Progress = Callable[[str], None]
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a drill is run on. ``quick`` asks for its short form, which shows that it works."""

    releases: Path
    signals: Path
    options: Sequence[str]  # of `pinrec serve`
    quick: bool
    progress: Progress

    def requests(self, **more: Any) -> list[RecommendRequest]:
        """One for each of some users of the signals."""
        users = [user for user, _ in islice(iter_histories(self.signals / "sequences"), USERS)]
        most = open_manifest(current_release(self.releases)).dataset.num_items
        return [RecommendRequest(user_id=user, num_items=min(NUM_ITEMS, most), **more) for user in users]

    @contextmanager
    def server(self) -> Iterator[Served]:
        self.progress("starting the server")
        folders = Folders(release=self.releases, signals=self.signals)
        with served(folders, self.options) as server:
            yield server


def releases_in(folder: Path) -> list[Path]:
    """The releases of a folder, by name, which begins with the time at which each was made."""
    return sorted(path.parent for path in folder.glob(f"*/{MANIFEST_FILE}"))


def ready(server: Served, model: str = ENSEMBLE.name) -> bool:
    """Whether the server says that it answers requests for ``model``."""
    try:
        with urllib.request.urlopen(f"{server.http}/v2/models/{model}/ready", timeout=2.0) as response:
            return response.status == 200
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 120.0) -> float:
    """Seconds until ``condition`` held. Raises ``ServerError`` when it does not within ``timeout`` seconds."""
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > timeout:
            raise ServerError(f"{what}: it did not happen within {timeout:.0f} s")
        time.sleep(POLLING)
    return time.perf_counter() - began


def process_of(server: Served, stage: str) -> int:
    """The process of a stage of the server."""
    for pid in tree(server.pid):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", errors="replace")
        if "triton_python_backend_stub" in line and f"/{stage}" in line:
            return pid
    raise ServerError(f"{stage}: no such process below {server.pid}")


def swap(server: Served) -> None:
    """Ask the service to serve the current release from now on."""
    os.kill(server.pid, signal.SIGHUP)


def save(folder: Path, card: MachineCard, drill: str, setting: Setting, rows: Sequence[Row]) -> Path:
    """Write ``operation_<drill>-<machine>.json``, in the form of the benchmarks' results, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"operation_{drill}-{card.slug}.json"
    release = open_manifest(current_release(setting.releases))
    settings = {
        "V": release.dataset.num_items, "users": release.dataset.num_users, "layers": release.model.layers,
        "H": release.model.hidden_width, "T": release.model.max_history, "options": list(setting.options),
        "quick": setting.quick,
    }  # fmt: skip
    machine = {**card.to_dict(), "load_average": [card.load_average, load_average()]}
    plain = {
        "benchmark": f"operation_{drill}",
        "machine": machine,
        "settings": settings,
        "rows": [dict(r) for r in rows],
    }
    path.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return path
