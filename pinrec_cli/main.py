"""The command line: ``pinrec <command>``. One thin module per command; this one registers them and ends a run well.

Commands import what they need when they run, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os

import typer

from pinrec_cli.demo import demo
from pinrec_cli.ending import Commands, run
from pinrec_cli.evaluate import evaluate
from pinrec_cli.log_event import log_event
from pinrec_cli.prepare import prepare
from pinrec_cli.recommend import recommend
from pinrec_cli.release import release
from pinrec_cli.serve import serve
from pinrec_cli.synth import synth
from pinrec_cli.train import train

app = typer.Typer(
    name="pinrec",
    cls=Commands,
    help="From an event log to recommendations through a Triton Inference Server: "
    "synth → prepare → train → release → serve → recommend.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (demo, synth, prepare, train, evaluate, release, serve, recommend, log_event):
    app.command()(command)


def main() -> None:
    """Entry point."""
    # Before torch loads OpenMP: threads that spin while they wait slow each other down as soon as the cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    run(app, "pinrec")
