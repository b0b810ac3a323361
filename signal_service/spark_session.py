"""A Spark session that starts quietly on any machine and leaves nothing running. Knows nothing of the job."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from py4j.protocol import Py4JError
from pyspark import SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from pinrec_core.errors import ConfigError, ServerError, require
from signal_service.java_runtime import find_java, spark_environment

LOCAL_ONLY = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
}
"""A local master talks to itself; one on a cluster must be reachable by its executors."""


MASTER = re.compile(r"local(\[[^\]]+\])?$|yarn$|(spark|k8s|mesos)://.")
"""Checked here, because Spark answers anything else with a Java stack trace."""

QUICK = {"spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1"}
"""Java's first compiler alone: starts in half the time, and what it compiles runs slower."""

CONNECT_SECONDS = 5


def check_spark(master: str) -> None:
    """Raise what would keep a session from starting, so far as it shows without one: a caller may have long to go.

    ``ConfigError`` for what is no master, ``ServerError`` for a standalone one that nobody answers at (Spark itself
    would try for a minute) and without a usable Java.
    """
    require(MASTER.match(master) is not None, "--master", master,
            "a Spark master such as local[*], spark://host:7077, yarn or k8s://…", error=ConfigError)  # fmt: skip
    if master.startswith("spark://"):
        _connect_to_any(master)
    find_java()


def _connect_to_any(master: str) -> None:
    """``spark://host:port,host:port`` names one master and those that stand by for it."""
    for address in master.removeprefix("spark://").split(","):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
            return
        except (OSError, ValueError, OverflowError) as error:  # not there; a port that is no number or no port
            reason = f"{address}: {error}"
    raise ServerError(f"--master={master!r}: expected a Spark master that answers ({reason})")


@contextmanager
def spark_session(
    *, name: str, master: str, driver_memory: str, shuffle_partitions: int, quick: bool = False
) -> Iterator[SparkSession]:
    """A session for one job; ``quick`` when that is over before Java's better compiler would pay.

    Where Spark is already up (``spark-submit``, a notebook) its session is used as configured there and left running.
    Otherwise one is started and, on exit, its Java process ends too, at once and in silence when the block fails or is
    interrupted. Raises what ``check_spark`` does and ``ServerError`` when Spark does not start.
    """
    if SparkContext._active_spark_context is not None or "PYSPARK_GATEWAY_PORT" in os.environ:
        yield SparkSession.builder.appName(name).getOrCreate()
        return
    check_spark(master)
    settings = {
        "spark.driver.memory": driver_memory,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": str(shuffle_partitions),
        "spark.sql.session.timeZone": "UTC",
        **(LOCAL_ONLY if master.startswith("local") else {}),
        **(QUICK if quick else {}),
    }
    with tempfile.TemporaryDirectory(prefix="pinrec-spark-") as folder:
        environment = spark_environment(find_java(), Path(folder))
        if master.startswith("local"):  # or Spark looks its own host's name up, and dies where there is no network
            environment["SPARK_LOCAL_IP"] = "127.0.0.1"
        _silence_py4j()  # to stay: objects of Java are freed after it has ended
        try:
            session = _start(name, master, settings, environment)
            yield session
            session.stop()
        finally:
            _end_java()


def _silence_py4j() -> None:
    """Py4J logs the traceback of what it raises all the same, an interrupt among it, and of what Java leaves unsaid.

    It does so through loggers of its own and, here and there, straight through the root logger, which then gets a
    handler that prints what the others say, too. Whoever wants to read them adds a handler to ``py4j``.
    """
    logging.getLogger().addFilter(_not_by_py4j)  # a logger's filter does not see what other loggers hand up to it
    logging.getLogger("py4j").propagate = False


def _not_by_py4j(record: logging.LogRecord) -> bool:
    return Path(record.pathname).parent.name != "py4j"


def _start(name: str, master: str, settings: Mapping[str, str], environment: Mapping[str, str]) -> SparkSession:
    builder = SparkSession.builder.appName(name).master(master)
    for key, value in settings.items():
        builder = builder.config(key, value)
    before = {key: os.environ.get(key) for key in environment}
    os.environ.update(environment)
    try:
        # Off the main thread, where PySpark would make every interrupt speak to Java amid an answer of Java's.
        with warnings.catch_warnings(), _interrupt_held_back(), ThreadPoolExecutor(1) as thread:
            warnings.simplefilter("ignore", FutureWarning)  # Spark's remarks on the version of pandas, unused here
            return thread.submit(builder.getOrCreate).result()
    except (PySparkException, Py4JError) as error:
        _, _, java = str(error).partition("\n: ")  # where Java's own words begin; its stack is on the lines behind
        reason = (java or str(error)).splitlines()[0]
        raise ServerError(f"--master={master!r}: expected Spark to start there, {reason}") from error
    finally:
        for key, earlier in before.items():
            if earlier is None:
                del os.environ[key]
            else:
                os.environ[key] = earlier


@contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """An interrupt in the block is raised behind it: nobody could end a Java that is only starting."""
    if threading.current_thread() is not threading.main_thread():  # where none is raised
        yield
        return
    came = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: came.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came.is_set():
            signal.raise_signal(signal.SIGINT)


def _end_java() -> None:
    """End the Java process, which PySpark would keep (with its heap) until Python exits, and what it may be doing.

    Not a word is said to it: after an interrupt its next answer would be that to the call that was interrupted.
    """
    gateway = SparkContext._gateway
    process = getattr(gateway, "proc", None)
    if process is not None:
        process.stdin.close()  # the Java side watches its standard input and exits when it closes
        process.wait(timeout=60)
    SparkContext._gateway = SparkContext._jvm = SparkContext._active_spark_context = None
    SparkSession._instantiatedSession = None
