"""The command line ``pinrec``. Each command is a thin module; this one registers them all.

Commands import what they need when they run, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
from typing import Any

import typer

from pinrec_cli.demo import demo
from pinrec_cli.ending import Commands, run
from pinrec_cli.evaluate import evaluate
from pinrec_cli.forget_user import forget_user
from pinrec_cli.ingest import ingest
from pinrec_cli.log_event import log_event
from pinrec_cli.prepare import prepare
from pinrec_cli.recommend import recommend
from pinrec_cli.release.group import app as release
from pinrec_cli.serve import serve
from pinrec_cli.signals import app as signals
from pinrec_cli.synth import synth
from pinrec_cli.top import top
from pinrec_cli.train import train
from pinrec_cli.tune import tune

ORDER = (
    "demo", "synth", "prepare", "signals", "train", "evaluate", "release", "tune", "serve", "top", "recommend",
    "log-event", "ingest", "forget-user",
)  # fmt: skip


class InOrder(Commands):
    """The commands in the order in which they are used; typer puts groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    name="pinrec",
    cls=InOrder,
    help="From an event log to recommendations through a Triton Inference Server: "
    "synth → prepare → train → release → serve → recommend.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (
    demo, synth, prepare, train, evaluate, tune, serve, top, recommend, log_event, ingest, forget_user,
):  # fmt: skip
    app.command()(command)
app.add_typer(release)
app.add_typer(signals)


def main() -> None:
    """Entry point."""
    # Set before torch loads OpenMP. Threads that spin while they wait slow down all others that share their cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    run(app, "pinrec")
