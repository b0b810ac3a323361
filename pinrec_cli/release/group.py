"""The commands of ``pinrec release``. What is none of them is a run: ``pinrec release RUN`` is short for
``pinrec release make RUN``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from pinrec_cli.release.extend import extend
from pinrec_cli.release.make import make
from pinrec_cli.release.prune import prune
from pinrec_cli.release.showing import list_, show, verify
from pinrec_cli.release.switch import publish, rollback

DEFAULT = "make"


class ReleaseCommands(TyperGroup):
    """A group whose command can be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts ``make`` before arguments that begin with no command."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="release",
    cls=ReleaseCommands,
    no_args_is_help=True,
    help="""Make a release of a run, and manage releases until they are removed.

    `pinrec release RUN` is short for `pinrec release make RUN`; `pinrec release make --help` has its options. A run in
    a folder that is named like a command is written as ./list.

    pinrec release runs/ml100k --releases releases

    pinrec release list --releases releases

    pinrec release rollback --releases releases && kill -HUP PID
    """,
)
COMMANDS: dict[str, Callable[..., None]] = {
    DEFAULT: make, "list": list_, "show": show, "verify": verify, "publish": publish, "rollback": rollback,
    "extend": extend, "prune": prune,
}  # fmt: skip
for name, command in COMMANDS.items():
    app.command(name)(command)
