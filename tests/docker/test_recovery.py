"""A container loses one process after the other, and is back each time without a person and without losing an event."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest
from pinrec_client import Event, PinRecClient, PinRecClientError, RetryPolicy

from tests.docker.project import Project, wait_until

USER = 1

PID = """
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
    while (victim / "statm").read_text().split()[0] != "0" and len(eaten) < 128:
        eaten.append(b"x" * (16 << 20))
except (FileNotFoundError, ProcessLookupError):
    pass
"""
"""Takes memory until the kernel has killed the victim for want of it: it then has none left, or is gone altogether. It
takes at most 2 GiB, which is more than the container may have."""

OOM_KILLS = """
from pathlib import Path
found = [path for path in map(Path, ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"))
         if path.exists()]
print(dict(line.split() for line in found[0].read_text().splitlines())["oom_kill"])
"""

STORED = """
import sys
from pathlib import Path
from pinrec_core.ids import IdKind, user_store_key
from signal_service.rocksdb_store import RocksDbEventStore
key = user_store_key(int(sys.argv[1]), IdKind.INT)
with RocksDbEventStore.open_secondary(Path("/data/dataset/signals/realtime")) as store:
    store.refresh()
    print("\\n".join(e.event_id for e in store.read(key, since=0, until=1 << 40, limit=10**6)))
"""


class Writer:
    """Writes one event after the other, never again when that fails, and remembers those that were acknowledged."""

    def __init__(self, url: str) -> None:
        self.acknowledged: set[str] = set()
        self._url = url
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        with PinRecClient(self._url, timeout=5, retry=RetryPolicy(retries=0)) as client:
            while not self._stopped.wait(0.02):
                event = Event(user_id=USER, item_id=1, action="save", timestamp=int(time.time()))
                with contextlib.suppress(PinRecClientError):
                    client.log_events([event])
                    self.acknowledged.add(event.event_id)


@pytest.fixture(scope="module")
def project(images, data, tmp_path_factory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("project")
    project = Project("pinrec-test-recovery", data, folder, PINREC_MEMORY="1536m", **images)
    try:
        project.up("tritonserver")
        yield project
    finally:
        project.down()


def pid(project: Project, words: str) -> str:
    (found,) = project.execute("tritonserver", PID, words).split()
    return found


def answers(project: Project) -> bool:
    with (
        contextlib.suppress(PinRecClientError),
        PinRecClient(project.url, timeout=5, retry=RetryPolicy(retries=0)) as client,
    ):
        return len(client.recommend(USER, num_items=5).items) == 5
    return False


def healthy(project: Project) -> bool:
    return project.inspect("tritonserver")["State"]["Health"]["Status"] == "healthy"


@contextlib.contextmanager
def loses_nothing(project: Project) -> Iterator[None]:
    """Events are written before, while something dies, and until requests and events are answered again.

    Then the store holds every event that was acknowledged.
    """
    with Writer(project.url) as writer:
        wait_until(lambda: len(writer.acknowledged) >= 5, "events are stored")
        yield
        wait_until(lambda: answers(project), "requests are answered again")
        count = len(writer.acknowledged)
        wait_until(lambda: len(writer.acknowledged) >= count + 5, "events are stored again")
    wait_until(lambda: healthy(project), "the container is healthy again")
    assert writer.acknowledged - set(project.execute("tritonserver", STORED, USER).split()) == set()


@pytest.mark.parametrize(
    ("words", "container_restarts"),
    [
        ("generator__", False),
        ("signal_ingest", False),
        ("haproxy", False),
        ("bin/tritonserver", True),
        ("pinrec serve", True),
    ],
    ids=["a stage", "the writer of events", "HAProxy", "Triton", "pinrec serve"],
)
def test_a_killed_process_is_replaced(project, words, container_restarts) -> None:
    before = project.inspect("tritonserver")
    victim = pid(project, words)
    with loses_nothing(project):
        project.execute("tritonserver", KILL, victim)
        # Requests may be answered until the loss is noticed: only what comes afterwards counts.
        gone = (
            (lambda: project.inspect("tritonserver")["RestartCount"] > before["RestartCount"])
            if container_restarts
            else (lambda: victim not in project.execute("tritonserver", PID, words).split())
        )
        wait_until(gone, f"{words} is gone")
    after = project.inspect("tritonserver")
    assert (after["State"]["StartedAt"] != before["State"]["StartedAt"]) == container_restarts


def test_a_stage_that_the_kernel_kills_for_want_of_memory_is_replaced(project) -> None:
    before = project.inspect("tritonserver")
    victim = pid(project, "generator__")
    with loses_nothing(project):
        project.execute("tritonserver", EAT, victim)
        wait_until(lambda: victim not in project.execute("tritonserver", PID, "generator__").split(), "it is gone")
    assert int(project.execute("tritonserver", OOM_KILLS)) >= 1
    assert project.inspect("tritonserver")["State"]["StartedAt"] == before["State"]["StartedAt"]


def test_nothing_is_written_but_what_has_to_be(project) -> None:
    container = project.inspect("tritonserver")
    assert container["HostConfig"]["ReadonlyRootfs"]
    assert container["HostConfig"]["CapDrop"] == ["ALL"]
    program = """
import os
from pathlib import Path
print(os.getuid(), *[folder for folder in ("/", "/opt/pinrec", "/etc", "/data", "/tmp", "/dev/shm", "/var/log/pinrec")
                     if os.access(folder, os.W_OK)])
print(next(line for line in Path("/proc/1/status").read_text().splitlines() if line.startswith("CapBnd")).split()[1])
"""
    writable, capabilities = project.execute("tritonserver", program).splitlines()
    assert writable.split() == ["1000", "/data", "/tmp", "/dev/shm", "/var/log/pinrec"]
    assert int(capabilities, 16) == 0


def test_sigterm_drains(project) -> None:
    project("stop", "tritonserver")
    assert project.inspect("tritonserver")["State"]["ExitCode"] == 0
    project("start", "tritonserver")
    wait_until(lambda: healthy(project), "the container is healthy again")
