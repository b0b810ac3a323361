"""The release and the signals to measure on: the given ones, or those of a demo that is built when first needed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pinrec_core.errors import ConfigError, ServerError
from pinrec_core.release.current import current_release
from pinrec_core.release.format import Release
from pinrec_core.stages.base import StageParameters


class Prepared:
    """The folders of a release and of its signals.

    Where they are not given, ``pinrec demo --build-only`` makes them in ``demo``, or without ``demo`` in a temporary
    folder that is removed together with this object. Raises ``ConfigError`` where only one of the two is given.
    """

    def __init__(self, *, release: Path | None = None, signals: Path | None = None, demo: Path | None = None) -> None:
        if (release is None) != (signals is None):
            raise ConfigError(f"--release={release}, --signals={signals}: expected both or neither")
        self._given = (release, signals)
        self._demo = demo

    @property
    def release(self) -> Release:
        return Release.open(self.folders.release)

    @property
    def signals(self) -> Path:
        return self.folders.signals

    def parameters(self, *, realtime: Path | None, threads: int) -> StageParameters:
        folders = self.folders
        return StageParameters(
            release=folders.release, signals=folders.signals, realtime=realtime, device="cpu", threads=threads
        )

    @cached_property
    def folders(self) -> Folders:
        """Raises ``ServerError`` when the demo cannot be built."""
        release, signals = self._given
        if release is not None and signals is not None:
            return Folders(release=_release_folder(release), signals=signals)
        if self._demo is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="pinrec-benchmarks-")
        demo = self._demo or Path(self._temporary.name)
        if not (demo / "releases" / "current").is_file():
            _build(demo)
        return Folders(release=current_release(demo / "releases"), signals=demo / "dataset" / "signals")


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Paths of a release and of the signals that it reads."""

    release: Path
    signals: Path


def pinrec_command() -> list[str]:
    """The command ``pinrec`` of the environment that this process runs in."""
    return [sys.executable, "-c", "from pinrec_cli.main import main; main()"]


def _release_folder(path: Path) -> Path:
    """``path`` itself, or the current release where it is a folder of releases."""
    return current_release(path) if (path / "current").is_file() else path


def _build(folder: Path) -> None:
    scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [*pinrec_command(), "demo", "--build-only", "--out", str(folder)]
    done = subprocess.run(command, stdout=sys.stderr, env={**os.environ, "PATH": scripts}, check=False)
    if done.returncode:
        raise ServerError(f"pinrec demo --build-only ended with status {done.returncode}: expected 0")
