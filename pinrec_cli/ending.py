"""How a command ends: a foreseen error prints one sentence and has its own exit code, and never shows a traceback."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from pinrec_core.errors import PinRecError, StoppedError


class Commands(TyperGroup):
    """The group of commands of a typer app, given to it as ``cls``."""

    def invoke(self, ctx: Any) -> Any:
        """Makes Ctrl-C an error like any other, where typer would exit without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise StoppedError("interrupted") from None


def run(app: typer.Typer, name: str) -> None:
    """Runs the command of the command line. ``name`` precedes the message when it fails."""
    try:
        app()
    except PinRecError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:  # `pinrec recommend … | head` is not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # from the operating system, such as a path that cannot be read or a full disk
        if error.errno is None:  # raised by code, not by the operating system: unforeseen
            raise
        path = "" if error.filename is None else f"{error.filename}: "
        print(f"{name}: {path}{error.strerror}", file=sys.stderr)
        raise SystemExit(PinRecError.exit_code) from None
