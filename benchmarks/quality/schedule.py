"""Distributes pieces of work over worker processes. Dependencies come first; a failure stops only what depends on it.

This module knows nothing of trainings: a piece is a job for ``worker``, with the ids of the pieces that must be
finished before it. A worker reads its job from standard input and ends when that closes, so that no worker outlives
this process, however it ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.quality import worker
from pinrec_core.errors import PinRecError

POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One job for a worker. ``kind`` and ``units`` are used to estimate how long it takes."""

    id: str
    kind: str
    units: float
    job: Mapping[str, Any]
    log: Path
    after: frozenset[str] = frozenset()  # ids of pieces that must be finished first
    alone: bool = False  # it measures time, so nothing may run beside it


@dataclass(slots=True, kw_only=True)
class _Durations:
    """Seconds and units of the finished pieces, by their kind."""

    seconds: dict[str, float] = field(default_factory=dict)
    units: dict[str, float] = field(default_factory=dict)

    def add(self, piece: Piece, seconds: float) -> None:
        self.seconds[piece.kind] = self.seconds.get(piece.kind, 0.0) + seconds
        self.units[piece.kind] = self.units.get(piece.kind, 0.0) + piece.units

    def left(self, pieces: Sequence[Piece], workers: int) -> str:
        """How much time is left, in words. Kinds of which none is finished yet are left out, and it says so."""
        known = [p for p in pieces if p.kind in self.units]
        seconds = sum(p.units * self.seconds[p.kind] / self.units[p.kind] / (1 if p.alone else workers) for p in known)
        if not pieces:
            return "all done"
        if not known:
            return "too early to say how long"
        return ("about " if len(known) == len(pieces) else "more than ") + in_words(seconds) + " left"


def run_pieces(pieces: Sequence[Piece], *, workers: int, threads: int, report: Callable[[str], None]) -> dict[str, str]:
    """Run all pieces, ``workers`` at a time with ``threads`` each. → the reasons for failures, by the id of the piece.

    A piece that depends on a failed one fails too. Pieces that have to be alone run when no others are ready. With 0
    workers, the pieces run one after another in this process, where a debugger can follow them.
    """
    if workers == 0:
        return _run_here(pieces, report)
    waiting = {piece.id: piece for piece in pieces}
    running: dict[str, tuple[Piece, subprocess.Popen[bytes], float]] = {}
    failed: dict[str, str] = {}
    durations = _Durations()
    finished = 0
    try:
        while waiting or running:
            for piece in list(waiting.values()):
                broken = sorted(piece.after & failed.keys())
                if broken:
                    del waiting[piece.id]
                    failed[piece.id] = f"needs {broken[0]}"
            for piece in _startable(waiting, running, workers):
                del waiting[piece.id]
                running[piece.id] = (piece, _start(piece, threads), time.monotonic())
            time.sleep(POLL_SECONDS)
            for name, (piece, process, started) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                seconds = time.monotonic() - started
                if process.returncode:
                    failed[name] = f"{_last_line(piece.log)} (status {process.returncode}; see {piece.log})"
                    report(f"failed: {name}: {failed[name]}")
                    continue
                finished += 1
                durations.add(piece, seconds)
                remaining = [*waiting.values(), *(p for p, _, _ in running.values())]
                report(f"[{finished}/{len(pieces)}] {name}: {in_words(seconds)}; {durations.left(remaining, workers)}")
    finally:
        for _, process, _ in running.values():
            process.kill()
        for _, process, _ in running.values():
            process.wait()
    return failed


def _run_here(pieces: Sequence[Piece], report: Callable[[str], None]) -> dict[str, str]:
    failed: dict[str, str] = {}
    for number, piece in enumerate(sorted(pieces, key=lambda piece: piece.alone), 1):
        broken = sorted(piece.after & failed.keys())
        try:
            if broken:
                failed[piece.id] = f"needs {broken[0]}"
            else:
                worker.perform(piece.job)
                report(f"[{number}/{len(pieces)}] {piece.id}")
        except PinRecError as error:
            failed[piece.id] = str(error)
    return failed


def in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _startable(waiting: Mapping[str, Piece], running: Mapping[str, Any], workers: int) -> list[Piece]:
    """The pieces that can start now, in the order in which they were given."""
    if any(piece.alone for piece, _, _ in running.values()):
        return []
    ready = [p for p in waiting.values() if not (p.after & (waiting.keys() | running.keys()))]
    together = [p for p in ready if not p.alone]
    if together:
        return together[: max(0, workers - len(running))]
    return ready[:1] if not running else []


def _start(piece: Piece, threads: int) -> subprocess.Popen[bytes]:
    piece.log.parent.mkdir(parents=True, exist_ok=True)
    with piece.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.quality.worker"], stdin=subprocess.PIPE, stdout=log, stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)}, cwd=Path(__file__).parents[2],
        )  # fmt: skip
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended already, and its status and its log say why
        process.stdin.write(json.dumps(piece.job).encode() + b"\n")
        process.stdin.flush()  # and kept open, because the worker ends when it closes
    return process


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
