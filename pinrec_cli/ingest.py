"""``pinrec ingest`` reads events from a file or from Kafka and writes them to a running service, each once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pinrec_cli.client_options import (
    DEFAULT_TIMEOUT,
    DEFAULT_URL,
    Certificate,
    Key,
    RootCertificates,
    StringIds,
    Timeout,
    UseTls,
)

if TYPE_CHECKING:
    from rich.table import Table

    from event_stream.ingestion import Counters

HELP = (
    "Read events from a file or a stream and write each of them once to a running service.",
    "Every record is a JSON object (or a row of parquet) with user_id, action, timestamp in Unix seconds, and item_id, "
    "or query for a search; surface and event_id may be there too. Other fields are ignored.",
    "A file of JSON lines. Run again, it goes on where it ended:",
    "  pinrec ingest --from events.jsonl",
    "The same while it is being written, until Ctrl-C or SIGTERM:",
    "  pinrec ingest --from /var/log/events.jsonl --follow --rejected rejected.jsonl",
    "A topic, as a member of the consumer group 'signals', for a service with two replicas:",
    "  PINREC_KAFKA_SASL_PASSWORD=… pinrec ingest --from 'kafka://broker:9092/events?group=signals' "
    "--kafka-config kafka.properties --server a.example:8001,b.example:8001",
    "Fields with other names:",
    "  pinrec ingest --from log.jsonl.gz --field user_id=uid --field timestamp=ts",
    "A record that cannot be used goes to --rejected, with its reason and place, and holds nobody up. While the "
    "service is away the command waits, and reads no further. Killed at any moment, it loses nothing: the next run "
    "repeats at most what was not committed, and the service keeps one copy of an event.",
)


def ingest(
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="A file (.jsonl, .jsonl.gz or .parquet), or kafka://HOST:PORT[,HOST:PORT]/TOPIC?group=GROUP; a new "
            "group begins at the earliest record, with &start=latest at the end.",
            show_default=False,
        ),
    ],
    server: Annotated[
        str,
        typer.Option(
            "--server",
            "--url",
            metavar="HOST:PORT",
            help="The service's gRPC endpoint, or those of several replicas with commas between them. An API key is "
            "read from the environment variable PINREC_API_KEY.",
        ),
    ] = DEFAULT_URL,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more at the end of the file, as tail -F.")] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="How far the file has been read; removed, it is read again.", show_default="SOURCE.checkpoint"
        ),
    ] = None,
    rejected: Annotated[
        Path, typer.Option(help="Where records go that cannot be used, as JSON lines; it is appended to.")
    ] = Path("rejected.jsonl"),
    max_rejected: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="Fail when a larger share of the records cannot be used: the source is another one."
        ),
    ] = 0.1,
    batch: Annotated[int, typer.Option(help="Events in a call, at most.")] = 500,
    in_flight: Annotated[int, typer.Option(help="Calls at once. While so many wait, nothing is read.")] = 4,
    idle: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="End when nothing new came for so long.", show_default="never"),
    ] = None,
    drain: Annotated[
        float, typer.Option(metavar="SECONDS", help="After SIGTERM or Ctrl-C, how long calls in flight may take.")
    ] = 30.0,
    field: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=THEIRS", help="A field that the records name otherwise; may be repeated."),
    ] = None,
    string_ids: StringIds = False,
    kafka_config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Properties of the connection to Kafka (librdkafka's, as name=value lines). Secrets belong there or "
            "into the environment: PINREC_KAFKA_SASL_PASSWORD sets sasl.password, and so on.",
            show_default=False,
        ),
    ] = None,
    timeout: Timeout = DEFAULT_TIMEOUT,
    tls: UseTls = False,
    root_certificates: RootCertificates = None,
    certificate: Certificate = None,
    key: Key = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the counters as JSON.")] = False,
) -> None:
    import functools
    import time
    from contextlib import closing

    from event_stream.delivery import Delivery
    from event_stream.ingestion import Ingestion, IngestSettings
    from event_stream.opening import open_source
    from event_stream.records import RecordFormat
    from event_stream.rejected import RejectedFile
    from event_stream.stopping import Stopping
    from pinrec_cli.client_errors import connected
    from pinrec_cli.console import print_json, stderr, stdout
    from pinrec_cli.ingest_progress import ingest_progress
    from pinrec_core.training.stop_signals import stop_signals

    settings = IngestSettings(batch=batch, in_flight=in_flight, max_rejected=max_rejected, idle=idle)
    record_format = RecordFormat.of(_renamed(field or []), string_ids=string_ids)

    def tell(sentence: str) -> None:
        stderr.print(f"{time.strftime('%H:%M:%S')} {sentence}", soft_wrap=True)

    begin = time.monotonic()
    ingestion: Ingestion | None = None
    try:
        with (
            connected(
                server, timeout=timeout, tls=tls, root_certificates=root_certificates, certificate=certificate, key=key
            ) as client,
            closing(
                open_source(
                    source, record_format, follow=follow, checkpoint=checkpoint, kafka_config=kafka_config, tell=tell
                )
            ) as opened,
            closing(RejectedFile(rejected)) as rejected_file,
            stop_signals(second_ends=True) as stop,
            ingest_progress(opened) as report,
        ):
            stopping = Stopping(lambda: stop.requested, drain_seconds=drain)
            delivery = Delivery(functools.partial(client.log_events, timeout=timeout), record_format, stopping, tell)
            ingestion = Ingestion(opened, delivery.deliver, rejected_file, settings, stopping, report=report, tell=tell)
            ingestion.run()
    finally:  # of a run that failed as well
        if ingestion is not None:
            seconds = time.monotonic() - begin
            if json_:
                print_json(_document(ingestion.counters, delivery.waits, seconds, stop.requested))
            else:
                stdout.print(_table(ingestion.counters, delivery.waits, seconds, rejected))
    if stop.requested:
        tell("stopped as asked: what was in flight is acknowledged and committed")


# Paragraphs of a docstring would keep its line breaks on a terminal of any width.
ingest.__doc__ = "\n\n".join(HELP)


def _renamed(fields: list[str]) -> dict[str, str]:
    from pinrec_core.errors import InvalidRequestError

    renamed = {}
    for one in fields:
        name, separator, theirs = one.partition("=")
        if not separator or not theirs:
            raise InvalidRequestError(f"field={one!r}: expected NAME=THEIRS, as in user_id=uid")
        renamed[name] = theirs
    return renamed


def _document(counters: Counters, waits: int, seconds: float, stopped: bool) -> dict[str, object]:
    return {
        "read": counters.read,
        "acknowledged": counters.acknowledged,
        "unreadable": counters.unreadable,
        "refused": counters.refused,
        "unfinished": counters.in_flight,
        "committed": counters.committed and not counters.in_flight,
        "calls": counters.calls,
        "waits": waits,
        "stopped": stopped,
        "seconds": round(seconds, 3),
        "events_per_second": round(counters.acknowledged / seconds) if seconds else 0,
    }


def _table(counters: Counters, waits: int, seconds: float, rejected: Path) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="events", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    where = f"in {escape(str(rejected))}" if counters.rejected else ""
    rows = [
        ("read", counters.read, "records of the source"),
        ("acknowledged", counters.acknowledged, "events that the service holds"),
        ("unreadable", counters.unreadable, where or "records that are no event"),
        ("refused", counters.refused, where or "events that the service does not take"),
        ("unfinished", counters.in_flight, "neither; not committed, the next run reads them again"),
        ("calls", counters.calls, f"{waits:,} of them failed and were waited after"),
    ]
    for name, count, meaning in rows:
        table.add_row(name, f"{count:,}", meaning)
    rate = counters.acknowledged / seconds if seconds else 0.0
    table.add_row("events/s", f"{rate:,.0f}", f"over {seconds:,.1f} s")
    return table
