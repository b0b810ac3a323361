"""A Spark session that starts quietly on any machine and leaves nothing running. Knows nothing of the job."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def spark_session(*, name: str, master: str, driver_memory: str, shuffle_partitions: int) -> Iterator[SparkSession]:
    """A session for one job.

    Where Spark is already up (``spark-submit``, a notebook) its session is used as configured there and left running.
    Otherwise one is started and, on exit, its Java process ends too. Raises ``ConfigError`` for what is no master and
    ``ServerError`` without a usable Java.
    """
    if SparkContext._active_spark_context is not None or "PYSPARK_GATEWAY_PORT" in os.environ:
        yield SparkSession.builder.appName(name).getOrCreate()
        return
    require(MASTER.match(master) is not None, "master", master,
            "a Spark master such as local[*], spark://host:7077, yarn or k8s://…", error=ConfigError)  # fmt: skip
    settings = {
        "spark.driver.memory": driver_memory,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": str(shuffle_partitions),
        "spark.sql.session.timeZone": "UTC",
        **(LOCAL_ONLY if master.startswith("local") else {}),
    }
    with tempfile.TemporaryDirectory(prefix="pinrec-spark-") as folder:
        environment = spark_environment(find_java(), Path(folder))
        if master.startswith("local"):  # or Spark looks its own host's name up, and dies where there is no network
            environment["SPARK_LOCAL_IP"] = "127.0.0.1"
        session = _start(name, master, settings, environment)
        try:
            yield session
        finally:
            _stop(session)


def _start(name: str, master: str, settings: Mapping[str, str], environment: Mapping[str, str]) -> SparkSession:
    builder = SparkSession.builder.appName(name).master(master)
    for key, value in settings.items():
        builder = builder.config(key, value)
    before = {key: os.environ.get(key) for key in environment}
    os.environ.update(environment)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Spark's remarks on the version of pandas, unused here
            return builder.getOrCreate()
    except PySparkException as error:
        raise ServerError(f"master={master!r}: expected Spark to start, {error}") from error
    finally:
        for key, earlier in before.items():
            if earlier is None:
                del os.environ[key]
            else:
                os.environ[key] = earlier


def _stop(session: SparkSession) -> None:
    """Stop the session and the Java process behind it, which PySpark would keep (with its heap) until Python exits."""
    gateway = SparkContext._gateway
    session.stop()
    if gateway is not None:
        gateway.shutdown()
        process = getattr(gateway, "proc", None)
        if process is not None:
            process.stdin.close()  # the Java side watches its standard input and exits when it closes
            process.wait(timeout=60)
    SparkContext._gateway = None
    SparkContext._jvm = None
