"""The command line: ``pinrec <command>``. One thin module per command; this one registers them and ends a run well.

Commands import what they need when they run, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from pinrec_core.cli.demo import demo
from pinrec_core.cli.evaluate import evaluate
from pinrec_core.cli.log_event import log_event
from pinrec_core.cli.prepare import prepare
from pinrec_core.cli.recommend import recommend
from pinrec_core.cli.release import release
from pinrec_core.cli.serve import serve
from pinrec_core.cli.synth import synth
from pinrec_core.cli.train import train
from pinrec_core.errors import PinRecError, StoppedError


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Ctrl-C is an error like any other, not the silent exit that typer makes of it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise StoppedError("interrupted") from None


app = typer.Typer(
    name="pinrec",
    cls=_Commands,
    help="From an event log to recommendations through a Triton Inference Server: "
    "synth → prepare → train → release → serve → recommend.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (demo, synth, prepare, train, evaluate, release, serve, recommend, log_event):
    app.command()(command)


def main() -> None:
    """Entry point. A foreseen error ends with one sentence and its own exit code, never with a traceback."""
    # Before torch loads OpenMP: threads that spin while they wait slow each other down as soon as the cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except PinRecError as error:
        print(f"pinrec: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:  # `pinrec recommend … | head` is not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # what the machine refuses: a path that cannot be read or written, a full disk
        if error.errno is None:  # not the machine's: a fault of ours
            raise
        path = "" if error.filename is None else f"{error.filename}: "
        print(f"pinrec: {path}{error.strerror}", file=sys.stderr)
        raise SystemExit(PinRecError.exit_code) from None
