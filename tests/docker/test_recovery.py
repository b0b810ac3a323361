"""A container loses one process after the other, and is back each time without a person and without losing an event."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.compose_project import Project
from benchmarks.operation.containers import SERVICE, SIGNALS, VICTIMS, healthy, loses
from benchmarks.operation.drill import Setting
from tests.docker.project import wait_until


@pytest.fixture(scope="module")
def project(images, data, tmp_path_factory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("project")
    project = Project("pinrec-test-recovery", data, folder, PINREC_MEMORY="1536m", **images)
    try:
        project.up(SERVICE)
        yield project
    finally:
        project.down()


@pytest.mark.parametrize("victim", VICTIMS, ids=lambda victim: victim.name)
def test_a_killed_process_is_replaced(project, data, victim) -> None:
    """The short form of the drill `containers`."""
    setting = Setting(releases=data / "releases", signals=data / SIGNALS, options=[], quick=True, progress=print)
    row = loses(project, victim, setting, data)
    assert row["events acknowledged"] >= 10
    assert row["events lost"] == 0
    assert row["container started again"] == victim.ends_container
    if victim is VICTIMS[-1]:
        assert row["OOM kills so far"] >= 1


def test_nothing_is_written_but_what_has_to_be(project) -> None:
    container = project.inspect(SERVICE)
    assert container["HostConfig"]["ReadonlyRootfs"]
    assert container["HostConfig"]["CapDrop"] == ["ALL"]
    program = """
import os
from pathlib import Path
print(os.getuid(), *[folder for folder in ("/", "/opt/pinrec", "/etc", "/data", "/tmp", "/dev/shm", "/var/log/pinrec")
                     if os.access(folder, os.W_OK)])
print(next(line for line in Path("/proc/1/status").read_text().splitlines() if line.startswith("CapBnd")).split()[1])
"""
    writable, capabilities = project.execute(SERVICE, program).splitlines()
    assert writable.split() == ["1000", "/data", "/tmp", "/dev/shm", "/var/log/pinrec"]
    assert int(capabilities, 16) == 0


def test_sigterm_drains(project) -> None:
    project("stop", SERVICE)
    assert project.inspect(SERVICE)["State"]["ExitCode"] == 0
    project("start", SERVICE)
    wait_until(lambda: healthy(project), "the container is healthy again")
