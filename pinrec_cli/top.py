"""``pinrec top`` shows what a running service does, stage by stage, once a second."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pinrec_cli.client_options import Certificate, Key, RootCertificates

if TYPE_CHECKING:
    import ssl

    from rich.console import RenderableType
    from rich.table import Table

    from pinrec_cli.top_figures import Figures


def top(
    url: Annotated[
        str,
        typer.Option(
            metavar="[https://]HOST:PORT", help="The metrics port of the service (`pinrec serve --metrics-port`)."
        ),
    ] = "127.0.0.1:8002",
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two readings.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Two readings, one table, and an end.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="With --once: one JSON document.")] = False,
    root_certificates: RootCertificates = None,
    certificate: Certificate = None,
    key: Key = None,
) -> None:
    """Watch a service: requests, queues, batches, errors, memory and restarts of each stage.

    Example: pinrec top

    Of another machine: pinrec top --url recommender-3:8002

    Of a service with TLS: pinrec top --url recommender-3:8002 --root-certificates ca.pem, or https:// before the host

    For a script: pinrec top --once --json

    Times and batch sizes are means over the last interval, `-` where there was no request. "wait" is how many requests
    are in the queue. Failed, invalid and restarts count from the start of the service. p50 and p99 are of whole
    requests over the last minute.
    """
    from contextlib import suppress
    from dataclasses import asdict

    from rich.live import Live

    from pinrec_cli.console import print_json, stdout
    from pinrec_cli.top_figures import Reading, figures
    from pinrec_core.errors import ConfigError, ServerError, require

    require(once or not json_, "--json", json_, "it with --once alone", error=ConfigError)
    scheme = "https" if root_certificates or certificate or key else "http"
    address = f"{url}/metrics" if "://" in url else f"{scheme}://{url}/metrics"
    tls = _tls(address, root_certificates, certificate, key)
    before = Reading.of(address, tls)
    if once:
        time.sleep(interval)
        shown = figures(before, Reading.of(address, tls))
        if json_:
            print_json(asdict(shown))
        else:
            stdout.print(table(shown, time.time()))
        return
    with suppress(KeyboardInterrupt), Live(console=stdout, auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(interval)
            picture: RenderableType
            try:
                now = Reading.of(address, tls)
                picture, before = table(figures(before, now), time.time()), now
            except ServerError as error:  # it may come back
                picture = str(error)
            live.update(picture, refresh=True)


def _tls(
    address: str, root_certificates: Path | None, certificate: Path | None, key: Path | None
) -> ssl.SSLContext | None:
    """How to talk TLS at an address of https, None at another. Raises ``ConfigError``."""
    import ssl

    from pinrec_core.errors import ConfigError

    if not address.startswith("https://"):
        if root_certificates or certificate or key:
            raise ConfigError(f"--url={address!r}: expected https:// with --root-certificates, --certificate and --key")
        return None
    if key and not certificate:
        raise ConfigError("--key: expected --certificate with it")
    try:
        context = ssl.create_default_context(cafile=root_certificates)
        if certificate:
            context.load_cert_chain(certificate, key)
    except OSError as error:
        raise ConfigError(
            f"--root-certificates, --certificate, --key: expected files in PEM format ({error})"
        ) from error
    return context


COLUMNS = (
    "pro-\ncesses", "req/s", "queue\nms", "compute\nms", "batch", "wait", "failed", "in-\nvalid", "re-\nstarts", "MiB",
)  # fmt: skip
"""Beside stage and release. They fit into 80 columns."""


def table(shown: Figures, now: float) -> Table:
    """One line per stage, under a title that says what serves, since when. ``now`` is in Unix seconds."""
    from rich.table import Table

    since = "" if shown.since is None else f" for {_duration(now - shown.since)}"
    title = f"release {shown.release or '?'}{since}" if shown.ready else "not ready"
    summary = (
        f"{shown.requests_per_second:.1f} req/s, p50 {_number(shown.p50_ms)} ms, p99 {_number(shown.p99_ms)} ms, "
        f"refused {shown.refused_per_second:.1f}/s, failed swaps {shown.swaps_failed}"
    )
    several = any(stage.release not in ("", shown.release) for stage in shown.stages)  # as during a swap
    made = Table(title=title, caption=summary, caption_justify="left", box=None, padding=(0, 1, 0, 0))
    made.add_column("stage", no_wrap=True)
    if several:
        made.add_column("release", no_wrap=True)
    for name in COLUMNS:
        made.add_column(name, justify="right")
    for stage in shown.stages:
        made.add_row(
            stage.stage, *([stage.release] if several else []),
            str(stage.processes), f"{stage.requests_per_second:.1f}",
            _number(stage.queue_ms), _number(stage.compute_ms), _number(stage.batch), str(stage.pending),
            _count(stage.failed), _count(stage.invalid), _count(stage.restarts), f"{stage.memory_bytes / 2**20:.0f}",
            style="red" if stage.processes == 0 else None,
        )  # fmt: skip
    return made


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _count(value: int) -> str:
    return f"[bold red]{value}[/]" if value else "0"


def _duration(seconds: float) -> str:
    """The two largest units: ``3d 4h``, ``2m 5s``."""
    left = int(max(seconds, 0))
    parts = []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        amount, left = divmod(left, size)
        if amount or unit == "s":
            parts.append(f"{amount}{unit}")
    return " ".join(parts[:2])
