"""A container loses one process after the other under load, is back each time without a person, and has every event
that was acknowledged. Needs a Docker engine.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compose_project import Project, compose, has_engine, open_to_containers
from benchmarks.operation.drill import Row, Setting, wait_until
from benchmarks.operation.kills import Writer
from benchmarks.operation.load import OK, Load
from pinrec_core.errors import ConfigError, ServerError

ROUNDS = 4
RATE = 20.0
SERVICE = "tritonserver"
SIGNALS = Path("dataset", "signals")  # in the volume
IMAGE = {"PINREC_IMAGE": "pinrec-on-triton:drill"}
STEADY_EVENTS = 5  # stored before a kill and after it

FIND = """
import sys
from pathlib import Path
for folder in Path("/proc").glob("[0-9]*"):
    line = (folder / "cmdline").read_bytes().replace(b"\\0", b" ").decode()
    if sys.argv[1] in line and " -c " not in line and not line.startswith("/sbin/docker-init"):
        print(folder.name)
"""

KILL = "import os, sys; os.kill(int(sys.argv[1]), 9)"

EAT = """
import os, sys
from pathlib import Path
victim = Path("/proc", sys.argv[1])
(victim / "oom_score_adj").write_text("1000")  # the kernel takes this process first
if os.fork():  # whoever waits for this program does not wait for a child that the kernel may take as well
    os.wait()
    sys.exit()
eaten = []
try:
    while (victim / "statm").read_text().split()[0] != "0" and len(eaten) < 512:
        eaten.append(b"x" * (16 << 20))
except (FileNotFoundError, ProcessLookupError):
    pass
"""
"""Takes memory until the kernel has killed the victim for want of it: it then has none left, or is gone altogether. It
takes at most 8 GiB, which is more than the container may have."""

OOM_KILLS = """
from pathlib import Path
found = [path for path in map(Path, ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"))
         if path.exists()]
print(dict(line.split() for line in found[0].read_text().splitlines())["oom_kill"])
"""


@dataclass(frozen=True, slots=True)
class Victim:
    """A process of the container, found by ``words`` of its command line, and the program that ends it.

    ``ends_container`` says whether the container ends with it and is started again by the engine.
    """

    name: str
    words: str
    program: str = KILL
    ends_container: bool = False


VICTIMS = (
    Victim("a stage", "generator__"),
    Victim("the writer of events", "signal_ingest"),
    Victim("HAProxy", "haproxy"),
    Victim("Triton", "bin/tritonserver", ends_container=True),
    Victim("pinrec serve", "pinrec serve", ends_container=True),
    Victim("a stage, for want of memory", "generator__", program=EAT),
)


def run(setting: Setting) -> list[Row]:
    """Raises ``ConfigError`` without an engine, and for options of `pinrec serve`, which compose.yaml has."""
    if not has_engine():
        raise ConfigError("the drill `containers` needs a Docker engine with compose: `docker info` fails here")
    if setting.options:
        raise ConfigError("--serve-option: expected none for the drill `containers`: compose.yaml has them")
    setting.progress("building the image")
    compose("build", "-q", "demo-release", environment=IMAGE, timeout=1800)
    rows: list[Row] = []
    with volume(setting) as data, tempfile.TemporaryDirectory() as folder:
        project = Project("pinrec-drill", data, Path(folder), **IMAGE)
        try:
            setting.progress("starting the container")
            project.up(SERVICE, alone=True)
            for number in range(1 if setting.quick else ROUNDS):
                for victim in VICTIMS:
                    setting.progress(f"round {number + 1}: {victim.name}")
                    try:
                        rows.append(loses(project, victim, setting, data))
                    except ServerError as error:
                        setting.progress(f"needs a person: {error}")
                        rows.append({"victim": victim.name, "needed a person": 1})
                        project.down()
                        project.up(SERVICE, alone=True)
        finally:
            project.down()
    return rows


@contextmanager
def volume(setting: Setting) -> Iterator[Path]:
    """A copy of the release and the signals, as the volume ``data`` of compose.yaml has them."""
    with tempfile.TemporaryDirectory(prefix="pinrec-volume-") as folder:
        data = Path(folder) / "data"
        shutil.copytree(setting.releases, data / "releases")
        shutil.copytree(setting.signals, data / SIGNALS)
        open_to_containers(data)
        yield data


def loses(project: Project, victim: Victim, setting: Setting, data: Path) -> Row:
    """What happened when the container lost ``victim`` under load: it ends when requests and events are answered again.

    Raises ``ServerError`` when that does not happen within two minutes.
    """
    before = project.inspect(SERVICE)
    process = pid(project, victim)
    with Load(project.url, setting.requests()) as load, Writer(setting, project.url) as writer:
        wait_until(lambda: writer.stored >= STEADY_EVENTS, "events are stored")
        with load.beside(RATE):
            wait_until(lambda: any(s.status == OK for s in load.sent), "requests are answered")
            killed = time.perf_counter()
            project.execute(SERVICE, victim.program, process)
            wait_until(_gone(project, victim, process, before["RestartCount"]), f"{victim.name} is gone")
            # Requests may be answered until the loss is noticed: only what comes afterwards counts.
            gone, stored = time.perf_counter(), writer.stored
            wait_until(lambda: _answered(load, gone), f"requests are answered again after the loss of {victim.name}")
            wait_until(lambda: writer.stored >= stored + STEADY_EVENTS, "events are stored again")
            wait_until(lambda: healthy(project), "the container is healthy again")
    after = project.inspect(SERVICE)
    failed = [s.ended for s in load.sent if s.due >= killed and s.status != OK]
    return {
        "victim": victim.name,
        "needed a person": 0,
        "serving again s": max(failed, default=killed) - killed,
        "requests": len(load.sent),
        "failed": len(failed),
        "container started again": int(after["State"]["StartedAt"] != before["State"]["StartedAt"]),
        "OOM kills so far": int(project.execute(SERVICE, OOM_KILLS)),
        "events acknowledged": writer.stored,
        "events lost": writer.lost(data / SIGNALS / "realtime"),
    }


def pid(project: Project, victim: Victim) -> str:
    (found,) = project.execute(SERVICE, FIND, victim.words).split()
    return found


def healthy(project: Project) -> bool:
    return project.inspect(SERVICE)["State"]["Health"]["Status"] == "healthy"


def _gone(project: Project, victim: Victim, process: str, restarts: int) -> Callable[[], bool]:
    if victim.ends_container:
        return lambda: project.inspect(SERVICE)["RestartCount"] > restarts
    return lambda: process not in project.execute(SERVICE, FIND, victim.words).split()


def _answered(load: Load, since: float) -> bool:
    return any(s.due > since and s.status == OK for s in load.sent[-64:])
