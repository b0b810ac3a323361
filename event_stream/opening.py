"""Which source an address means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from event_stream.json_lines import JsonLinesSource
from event_stream.kafka import KafkaAddress, KafkaSource, kafka_properties
from event_stream.parquet import ParquetSource
from event_stream.records import RecordFormat
from pinrec_core.errors import ConfigError

FileSource = JsonLinesSource | ParquetSource


def open_source(
    address: str,
    record_format: RecordFormat,
    *,
    follow: bool = False,
    checkpoint: Path | None = None,
    kafka_config: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> FileSource | KafkaSource:
    """``kafka://…`` is a topic, and everything else a file: parquet where its name ends so, else JSON lines.

    Without ``checkpoint``, that of a file lies beside it. Raises ``ConfigError`` for an option that the source does not
    have, and what the source raises.
    """
    if address.startswith("kafka:"):
        if follow or checkpoint is not None:
            raise ConfigError("--follow, --checkpoint: expected a file for these; Kafka goes on and keeps the offsets")
        return KafkaSource(KafkaAddress.parse(address), kafka_properties(kafka_config), tell)
    if "://" in address:
        raise ConfigError(f"from={address.partition('://')[0]}://…: expected kafka://… or the path of a file")
    if kafka_config is not None:
        raise ConfigError(f"--kafka-config: expected a source kafka://…, got {address!r}")
    path = Path(address)
    checkpoint = checkpoint or path.with_name(f"{path.name}.checkpoint")
    if path.suffix != ".parquet":
        return JsonLinesSource(path, checkpoint, follow=follow)
    if follow:
        raise ConfigError("--follow: expected JSON lines, a parquet file does not grow")
    return ParquetSource(path, checkpoint, columns=frozenset(record_format.names.values()))
