"""``pinrec demo`` runs each command of the path once, from a log to a table of titles, and shows it as it is run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

ML100K = "ml100k_derived_actions"


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder of dataset, run and releases. Whatever it holds already is not made again.")
    ] = Path("demo"),
    data: Annotated[
        Path | None,
        typer.Option(
            help=f"Folder of real logs. If it holds {ML100K}, the demo recommends films, else synthetic items.",
            envvar="PINREC_DATA",
            show_default=False,
        ),
    ] = None,
    build_only: Annotated[bool, typer.Option("--build-only", help="Stop once a release is published.")] = False,
    grpc_port: Annotated[int, typer.Option(help="Port of the server that the demo starts.")] = 8001,
    num_items: Annotated[int, typer.Option(help="Number of items to show per user.")] = 5,
) -> None:
    """Go the whole way: log → prepare → train → release → serve → recommend.

    Each step is printed as the command that a person would type.
    """
    import heapq

    from pinrec_core.dataset.manifest import DatasetManifest
    from pinrec_core.dataset.sequences import iter_histories

    dataset, run, releases = out / "dataset", out / "run", out / "releases"
    if not (dataset / "signals" / "batch").is_dir():
        if data is not None and (data / ML100K).is_dir():
            _step("prepare", "--preset", "ml100k", "--data", data / ML100K, "--out", dataset, "--overwrite")
        else:
            _step("synth", "--out", out / "log", "--overwrite")
            _step("prepare", "--config", out / "log" / "dataset.toml", "--out", dataset, "--overwrite")
    if not (run / "run.json").is_file():
        _step("train", dataset, "--out", run, "--preset", "tiny")
    if not (releases / "current").is_file():
        _step("release", run, "--releases", releases)
    if build_only:
        return

    outcomes = DatasetManifest.load(dataset).outcomes
    lengths = ((len(history), user) for user, history in iter_histories(dataset / "signals" / "sequences"))
    users = [user for _, user in heapq.nlargest(3, lengths)]  # the users with the longest histories
    show = [
        _command("recommend", *users, "--budget", f"{outcome}=1", "--num-items", num_items, "--exclude-seen",
                 "--titles", dataset, "--url", f"127.0.0.1:{grpc_port}")
        for outcome in (outcomes[0], outcomes[-1])
    ]  # fmt: skip
    _step(
        "serve", "--releases", releases, "--signals", dataset / "signals", "--grpc-port", grpc_port,
        "--http-port", grpc_port - 1, "--metrics-port", grpc_port + 1,
        "--", "sh", "-c", " && ".join(_echoed(command) for command in show),
    )  # fmt: skip


def _command(name: str, *arguments: object) -> list[str]:
    return ["pinrec", name, *map(str, arguments)]


def _echoed(command: list[str]) -> str:
    import shlex

    line = shlex.join(command)
    return f"echo {shlex.quote('$ ' + line)} && {line}"


def _step(name: str, *arguments: object) -> None:
    """Runs one command in its own process, as a person would. A command that fails ends the demo with its code."""
    import shlex
    import subprocess
    import sys

    command = _command(name, *arguments)
    print(f"\n$ {shlex.join(command)}", flush=True)
    scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    code = subprocess.run(command, env={**os.environ, "PATH": scripts}).returncode
    if code:
        raise typer.Exit(code)
