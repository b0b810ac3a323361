"""A Spark session that starts without output on any machine and leaves no process behind. Knows nothing of the job."""

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
"""Settings for a local master, which nobody else connects to. A driver on a cluster must be reachable by executors."""

MASTER = re.compile(r"local(\[[^\]]+\])?$|yarn$|(spark|k8s|mesos)://.")
"""The masters that Spark knows. They are checked here, because Spark reports any other with a Java stack trace."""

QUICK = {"spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1"}
"""Only the first of Java's compilers is used. Java then starts in half the time, but the compiled code is slower."""

CONNECT_SECONDS = 5


def check_spark(master: str) -> None:
    """Check beforehand that a session can start, so that a caller does not find out only after hours of other work.

    Raises ``ConfigError`` for an invalid master. Raises ``ServerError`` for a standalone master that does not answer
    (Spark itself would try for a minute), and when there is no usable Java.
    """
    require(MASTER.match(master) is not None, "--master", master,
            "a Spark master such as local[*], spark://host:7077, yarn or k8s://…", error=ConfigError)  # fmt: skip
    if master.startswith("spark://"):
        _connect_to_any(master)
    find_java()


def _connect_to_any(master: str) -> None:
    """Connect to one of the addresses in ``spark://host:port,host:port``: a master and its stand-ins.

    Raises ``ServerError`` when none of them answers.
    """
    for address in master.removeprefix("spark://").split(","):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
            return
        except (OSError, ValueError, OverflowError) as error:  # no answer, or a port that is no number or too large
            reason = f"{address}: {error}"
    raise ServerError(f"--master={master!r}: expected a Spark master that answers ({reason})")


@contextmanager
def spark_session(
    *, name: str, master: str, driver_memory: str, shuffle_partitions: int, quick: bool = False
) -> Iterator[SparkSession]:
    """A session for one job. ``quick`` is for a job that is too short for Java's better compiler to pay.

    If Spark is already running (``spark-submit``, a notebook), its session is used with its own settings and left
    running. Otherwise a session is started and its Java process is ended on exit. If the block fails or is interrupted,
    the process is ended at once and prints nothing. Raises the errors of ``check_spark``, and ``ServerError`` when
    Spark does not start.
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
        if master.startswith("local"):  # otherwise Spark looks up the name of its host, which fails without a network
            environment["SPARK_LOCAL_IP"] = "127.0.0.1"
        _silence_py4j()  # for good, because Py4J frees Java objects, and may fail at it, after Java has ended
        try:
            session = _start(name, master, settings, environment)
            yield session
            session.stop()
        except Exception as error:
            if _follows_an_interrupt(error):
                raise KeyboardInterrupt from None
            raise
        finally:
            _end_java()


def _follows_an_interrupt(error: BaseException) -> bool:
    """Whether an interrupt is what really happened.

    On its way out of an interrupted call PySpark calls Java again, on a connection that may be broken by then. The
    error of that call takes the place of the interrupt.
    """
    earlier = error.__context__
    return isinstance(earlier, KeyboardInterrupt) or (earlier is not None and _follows_an_interrupt(earlier))


def _silence_py4j() -> None:
    """Keep Py4J's messages from being printed. To read them, add a handler to the logger ``py4j``.

    Py4J logs tracebacks of errors that it raises as well, interrupts included, and of broken connections. It logs some
    of them to its own loggers and some directly to the root logger. A message to the root logger also installs a
    handler there, which would then print the messages of Py4J's own loggers.
    """
    # The filter sees only messages to the root logger itself, not those that other loggers propagate to it.
    logging.getLogger().addFilter(_not_by_py4j)
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
        # Started in another thread: in the main thread PySpark would install an interrupt handler that calls Java, even
        # while another call is waiting for its answer on the same connection.
        with warnings.catch_warnings(), _interrupt_held_back(), ThreadPoolExecutor(1) as thread:
            warnings.simplefilter("ignore", FutureWarning)  # about the version of pandas, which is not used here
            return thread.submit(builder.getOrCreate).result()
    except (PySparkException, Py4JError) as error:
        _, _, java = str(error).partition("\n: ")  # Java's own message follows, and its stack on further lines
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
    """Raise an interrupt (SIGINT) that arrives in the block after the block.

    While Java is starting there is no handle yet with which its process could be ended.
    """
    if threading.current_thread() is not threading.main_thread():  # interrupts are raised in the main thread only
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
    """End the Java process, even if it is computing. PySpark would keep it, with its heap, until Python exits.

    No call is made to Java for this. After an interrupt, the answer to the interrupted call is still to come, and it
    would be taken for the answer to the new call.
    """
    gateway = SparkContext._gateway
    process = getattr(gateway, "proc", None)
    if process is not None:
        process.stdin.close()  # Java watches its standard input and exits when that is closed
        process.wait(timeout=60)
    SparkContext._gateway = SparkContext._jvm = SparkContext._active_spark_context = None
    SparkSession._instantiatedSession = None
