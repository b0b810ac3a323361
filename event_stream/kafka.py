"""A topic of Kafka, read as a member of a consumer group. Offsets are committed by hand, and only for partitions that
are still this reader's.

Settings of the connection, secrets among them, come from the environment and from a file. Nothing prints their values.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from event_stream.source import Batch, NotCommittedError, Position, Record
from pinrec_core.errors import ConfigError, ServerError, require

ENVIRONMENT = "PINREC_KAFKA_"
"""What an environment variable begins with that sets a property: PINREC_KAFKA_SASL_PASSWORD sets sasl.password."""
DEFAULT_GROUP = "pinrec"
OURS = {
    "bootstrap.servers": "the address names the brokers",
    "group.id": "the address names the group, as in ?group=pinrec",
    "auto.offset.reset": "the address says where a new group begins, as in ?start=latest",
    "enable.auto.commit": "offsets are committed when the service has acknowledged the events",
    "enable.auto.offset.store": "offsets are committed when the service has acknowledged the events",
}
"""Properties that cannot be set from outside, and why."""
KEEP_ALIVE_SECONDS = 20.0
"""How long the group is left without a sign while nothing can be taken in. Kafka gives a member up after minutes."""
REPEATED_SECONDS = 30.0
"""How often the same trouble with the brokers is told."""

log = logging.getLogger(__name__)

Part = tuple[str, int, int]
"""Topic, partition, and which of its assignments to this reader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaAddress:
    """``kafka://BROKER:PORT[,BROKER:PORT…]/TOPIC?group=GROUP&start=earliest``.

    ``start`` is where a group without offsets begins: at the ``earliest`` record or at the ``latest``.
    """

    brokers: str
    topic: str
    group: str = DEFAULT_GROUP
    start: str = "earliest"

    @staticmethod
    def parse(text: str) -> KafkaAddress:
        """Raises ``ConfigError``, which does not repeat an address that has a password in it."""
        url = urlsplit(text)
        require("@" not in url.netloc, "from", "(not shown)", "no user and password in the address: they come from "
                f"the environment ({ENVIRONMENT}SASL_USERNAME, {ENVIRONMENT}SASL_PASSWORD) or from --kafka-config",
                error=ConfigError)  # fmt: skip
        topic = url.path.strip("/")
        shaped = url.scheme == "kafka" and url.netloc != "" and topic != "" and "/" not in topic and not url.fragment
        require(shaped, "from", text, "kafka://HOST:PORT/TOPIC?group=GROUP", error=ConfigError)
        query = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        address = KafkaAddress(
            brokers=url.netloc,
            topic=topic,
            group=query.pop("group", DEFAULT_GROUP),
            start=query.pop("start", "earliest"),
        )
        require(not query, "from", sorted(query), "only group and start; other settings go into --kafka-config",
                error=ConfigError)  # fmt: skip
        require(address.group != "", "group", address.group, "the name of a consumer group", error=ConfigError)
        require(address.start in ("earliest", "latest"), "start", address.start, "earliest or latest",
                error=ConfigError)  # fmt: skip
        return address


def kafka_properties(file: Path | None, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Properties of librdkafka from a file of ``name=value`` lines and from the environment, which has precedence.

    Raises ``ConfigError`` for a line without a name and for a property that is not to be set, without any value.
    """
    properties: dict[str, str] = {}
    if file is not None:
        try:
            lines = file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: expected a file of Kafka properties in UTF-8") from error
        for number, line in enumerate(lines, start=1):
            line = line.strip()
            if not line or line.startswith(("#", "!")):
                continue
            name, separator, value = line.partition("=")
            if not separator or not name.strip():
                raise ConfigError(f"{file}, line {number}: expected name=value")
            properties[name.strip()] = value.strip()
    for variable, value in environment.items():
        if variable.startswith(ENVIRONMENT):
            properties[variable.removeprefix(ENVIRONMENT).lower().replace("_", ".")] = value
    for name, why in OURS.items():
        if name in properties:
            raise ConfigError(f"{name} is set: expected it not to be, {why}")
    return properties


class KafkaSource:
    """An ``EventSource``. ``tell`` is called with a sentence when the brokers cannot be reached.

    Raises ``ConfigError`` when the client library is missing or refuses a property.
    """

    def __init__(
        self, address: KafkaAddress, properties: Mapping[str, str], tell: Callable[[str], None] = lambda _: None
    ) -> None:
        try:
            import confluent_kafka
        except ModuleNotFoundError as missing:
            raise ConfigError(
                "from=kafka://…: expected the package confluent-kafka (pip install 'pinrec-on-triton[stream]')"
            ) from missing
        self._kafka = confluent_kafka
        self._address = address
        self._tell = tell
        self._told: dict[int, float] = {}
        self._settle: Callable[[], None] = lambda: None
        self._assignments = 0
        self._parts: dict[tuple[str, int], Part] = {}  # what is this reader's now
        self._failure: ServerError | None = None
        self._early: list[Any] = []  # messages that came while nothing was to be taken in
        self._paused = False
        self._asked_at = time.monotonic()
        fatal = confluent_kafka.KafkaError
        self._final = {
            fatal._AUTHENTICATION, fatal.UNKNOWN_TOPIC_OR_PART, fatal.TOPIC_AUTHORIZATION_FAILED,
            fatal.GROUP_AUTHORIZATION_FAILED, fatal.CLUSTER_AUTHORIZATION_FAILED, fatal.SASL_AUTHENTICATION_FAILED,
        }  # fmt: skip
        ours = {
            "bootstrap.servers": address.brokers,
            "group.id": address.group,
            "auto.offset.reset": address.start,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "error_cb": self._on_error,
        }
        try:
            self._consumer = confluent_kafka.Consumer({"client.id": "pinrec", **properties, **ours}, logger=log)
            self._consumer.subscribe(
                [address.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
        except (confluent_kafka.KafkaException, ValueError, TypeError) as error:
            # Without its cause: the library's sentence may hold the value that it refuses.
            raise ConfigError(f"kafka properties {sorted(properties)}: {_without(properties, error)}") from None

    @property
    def owned(self) -> int:
        """The number of partitions that are this reader's now."""
        return len(self._parts)

    def poll(self, limit: int, seconds: float) -> Batch | None:
        if self._paused:
            self._paused = False
            self._consumer.resume(self._consumer.assignment())
        messages, self._early = self._early, []
        wanted = limit - len(messages)
        if wanted > 0:
            messages += self._consume(wanted, 0.0 if messages else seconds)
        records: list[Record] = []
        position: dict[Part, int] = {}
        for message in messages:
            if message.error() is not None:
                self._look_at(message.error())
                continue
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            part = self._parts.get((topic, partition))
            if part is None:  # it came before the partition went elsewhere, and its next reader gets it too
                continue
            records.append(Record(message.value(), f"{topic}[{partition}]", offset))
            position[part] = offset + 1
        return Batch(records=records, position=cast(Position, position))

    def commit(self, position: Position) -> None:
        offsets = [
            self._kafka.TopicPartition(topic, partition, offset)
            for (topic, partition, assignment), offset in cast(Mapping[Part, int], position).items()
            if self._parts.get((topic, partition)) == (topic, partition, assignment)
        ]
        if not offsets:
            return
        try:
            committed = self._consumer.commit(offsets=offsets, asynchronous=False)
        except self._kafka.KafkaException as error:
            raise NotCommittedError(f"offsets of {self._address.topic}: {_sentence(error)}") from error
        for one in committed or ():
            if one.error is not None:
                raise NotCommittedError(f"offsets of {self._address.topic}: {one.error.str()}")

    def keep_alive(self) -> None:
        if time.monotonic() - self._asked_at < KEEP_ALIVE_SECONDS:
            return
        if not self._paused:
            self._paused = True
            self._consumer.pause(self._consumer.assignment())
        self._early += self._consume(1, 0.0)

    def on_handover(self, settle: Callable[[], None]) -> None:
        self._settle = settle

    def close(self) -> None:
        self._consumer.close()

    def _consume(self, limit: int, seconds: float) -> list[Any]:
        self._asked_at = time.monotonic()
        messages = self._consumer.consume(limit, seconds)
        if self._failure is not None:
            raise self._failure
        return messages

    def _look_at(self, error: Any) -> None:
        """Raises ``ServerError`` for what no wait mends; tells the rest."""
        if error.code() == self._kafka.KafkaError._PARTITION_EOF:
            return
        if error.fatal() or error.code() in self._final:
            raise ServerError(f"kafka topic {self._address.topic!r} at {self._address.brokers}: {error.str()}")
        now = time.monotonic()
        if now - self._told.get(error.code(), -REPEATED_SECONDS) >= REPEATED_SECONDS:
            self._told[error.code()] = now
            self._tell(f"kafka: {error.str()}")

    def _on_error(self, error: Any) -> None:
        """Called from within the library, so a failure is kept for the next poll."""
        try:
            self._look_at(error)
        except ServerError as failure:
            self._failure = failure

    def _on_assign(self, _: Any, partitions: list[Any]) -> None:
        self._assignments += 1
        for one in partitions:
            self._parts[one.topic, one.partition] = (one.topic, one.partition, self._assignments)

    def _on_revoke(self, _: Any, partitions: list[Any]) -> None:
        self._settle()
        self._on_lost(_, partitions)

    def _on_lost(self, _: Any, partitions: list[Any]) -> None:
        """Another reader has them, and may have committed already: nothing of this one counts any more."""
        for one in partitions:
            self._parts.pop((one.topic, one.partition), None)


def _without(properties: Mapping[str, str], error: Exception) -> str:
    """What an error says, without the values of properties."""
    sentence = _sentence(error)
    for name, value in properties.items():
        if value:
            sentence = sentence.replace(value, f"(the value of {name})")
    return sentence


def _sentence(error: Exception) -> str:
    inner = error.args[0] if error.args else error
    return inner.str() if hasattr(inner, "str") else str(inner)
