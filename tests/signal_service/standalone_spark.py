"""A real standalone Spark on loopback: a master and its workers, each a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyspark

from signal_service.java_runtime import find_java

Found = TypeVar("Found")
HOME = Path(pyspark.__file__).parent
URL = re.compile(r"Starting Spark master at (spark://\S+)")
PAGE = re.compile(r"Successfully started service 'MasterUI' on port (\d+)")
REGISTERED = "Registering worker"
SECONDS = 180  # to start on a machine that is busy


@dataclass(frozen=True, slots=True)
class StandaloneSpark:
    url: str
    page: str  # of the master, which says what its workers and jobs do


@contextmanager
def standalone_spark(folder: Path, *, workers: int) -> Iterator[StandaloneSpark]:
    """The master, once all workers have registered with it. Logs go to ``folder``."""
    with ExitStack() as stack:
        options = ["--host", "127.0.0.1", "--port", "0", "--webui-port", "0"]
        log = folder / "master.log"
        master = _start(stack, log, "master.Master", options)
        url = _wait(log, master, _url_in)
        for number in range(workers):
            work = ["--cores", "1", "--memory", "1g", "--work-dir", str(folder / f"work-{number}")]
            _start(stack, folder / f"worker-{number}.log", "worker.Worker", [*options, *work, url])
        _wait(log, master, lambda text: text.count(REGISTERED) == workers or None)
        page = PAGE.search(log.read_text("utf-8"))
        assert page is not None, log
        yield StandaloneSpark(url, f"http://127.0.0.1:{page[1]}")


def _url_in(text: str) -> str | None:
    found = URL.search(text)
    return found[1] if found else None


def _start(stack: ExitStack, log: Path, name: str, arguments: list[str]) -> subprocess.Popen:
    environment = os.environ | {
        "SPARK_HOME": str(HOME), "SPARK_LOCAL_IP": "127.0.0.1", "JAVA_HOME": str(Path(find_java()).resolve().parents[1])
    }  # fmt: skip
    output = stack.enter_context(log.open("w"))
    command: list[str | Path] = [HOME / "bin" / "spark-class", f"org.apache.spark.deploy.{name}", *arguments]
    process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent)
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    process.wait(SECONDS)


def _wait(log: Path, process: subprocess.Popen, find: Callable[[str], Found | None]) -> Found:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and process.poll() is None:
        if (found := find(log.read_text("utf-8", "replace"))) is not None:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{log}: {log.read_text('utf-8', 'replace')}")
