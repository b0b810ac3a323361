"""How a command line ends: a foreseen error with one sentence and its own exit code, never with a traceback."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from pinrec_core.errors import PinRecError, StoppedError


class Commands(TyperGroup):
    """The class of an app's commands."""

    def invoke(self, ctx: Any) -> Any:
        """Ctrl-C is an error like any other, not the silent exit that typer makes of it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise StoppedError("interrupted") from None


def run(app: typer.Typer, name: str) -> None:
    """Run the command that was given; ``name`` stands before what is wrong with it."""
    try:
        app()
    except PinRecError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:  # `pinrec recommend … | head` is not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # what the machine refuses: a path that cannot be read or written, a full disk
        if error.errno is None:  # not the machine's: a fault of ours
            raise
        path = "" if error.filename is None else f"{error.filename}: "
        print(f"{name}: {path}{error.strerror}", file=sys.stderr)
        raise SystemExit(PinRecError.exit_code) from None
