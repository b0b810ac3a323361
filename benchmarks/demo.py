"""A release and its signals to measure on: the given ones, or a demo built when first asked for."""

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
    """``release`` and ``signals`` folders. Where they are not given, ``pinrec demo --build-only`` makes them in
    ``demo``, or in a temporary folder that goes with this object."""

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
    """Where a release and the signals it reads lie."""

    release: Path
    signals: Path


def pinrec_command() -> list[str]:
    """``pinrec`` of this very environment."""
    return [sys.executable, "-c", "from pinrec_cli.main import main; main()"]


def _release_folder(path: Path) -> Path:
    """A release folder, or the current one of a folder of releases."""
    return current_release(path) if (path / "current").is_file() else path


def _build(folder: Path) -> None:
    scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [*pinrec_command(), "demo", "--build-only", "--out", str(folder)]
    done = subprocess.run(command, stdout=sys.stderr, env={**os.environ, "PATH": scripts}, check=False)
    if done.returncode:
        raise ServerError(f"pinrec demo --build-only ended with status {done.returncode}: expected 0")
