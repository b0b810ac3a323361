"""Kafka, against each broker of ``brokers``: what is committed is not read again, and a rebalance loses nothing."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from event_stream import kafka
from event_stream.ingestion import Ingestion, IngestSettings
from event_stream.kafka import KafkaAddress, KafkaSource, kafka_properties
from event_stream.rejected import RejectedFile
from event_stream.source import Record
from event_stream.stopping import Stopping
from pinrec_core.errors import ConfigError, PinRecError, ServerError
from tests.event_stream.brokers import Broker
from tests.event_stream.test_ingestion import Delivered

QUICK = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "500", "log_level": "0"}
PATIENCE = 60.0


def source(broker: Broker, topic: str) -> KafkaSource:
    """A member of the group that has the topic's name."""
    return KafkaSource(KafkaAddress(brokers=broker.address, topic=topic, group=topic), QUICK)


def read(opened: KafkaSource, count: int, limit: int = 50) -> tuple[list[int], dict]:
    """``count`` numbers or more, and the position after them."""
    numbers, position, until = [], {}, time.monotonic() + PATIENCE
    while len(numbers) < count:
        assert time.monotonic() < until, f"{len(numbers)} of {count}"
        batch = opened.poll(limit, 0.2)
        numbers += [int(record.value) for record in batch.records]
        position |= batch.position
    return numbers, position


def numbered(n: int) -> list[bytes]:
    return [b"%d" % number for number in range(n)]


def test_what_is_committed_is_not_read_again_and_all_else_is(broker):
    topic = broker.topic()
    broker.produce(topic, numbered(400))
    first = source(broker, topic)
    done, position = read(first, 200)
    more, _ = read(first, 50)  # never committed
    first.commit(position)
    first.close()
    assert broker.committed(topic, topic) == len(done)
    second = source(broker, topic)
    rest, _ = read(second, 400 - len(done))
    second.close()
    assert sorted(done + rest) == list(range(400))
    assert set(more) <= set(rest)


def test_a_record_knows_its_place_and_may_have_no_value(broker):
    topic = broker.topic()
    broker.produce(topic, [b"0", None])
    opened, records = source(broker, topic), []
    while len(records) < 2:
        records += opened.poll(5, 0.2).records
    opened.close()
    assert sorted(records, key=lambda one: one.part) == [
        Record(b"0", f"{topic}[0]", 0), Record(None, f"{topic}[1]", 0),
    ]  # fmt: skip


def test_a_member_stays_one_while_nothing_can_be_taken_in(broker, monkeypatch):
    """A call that reads nothing keeps the place in the group; what comes with it is not lost."""
    monkeypatch.setattr(kafka, "KEEP_ALIVE_SECONDS", 0.0)
    topic = broker.topic()
    broker.produce(topic, numbered(100))
    opened = source(broker, topic)
    numbers, position = read(opened, 10, limit=10)
    for _ in range(20):
        opened.keep_alive()
        time.sleep(0.05)
    opened.commit(position)
    more, last = read(opened, 100 - len(numbers), limit=10)
    assert sorted(numbers + more) == list(range(100))
    opened.commit(last)
    opened.close()
    assert broker.committed(topic, topic) == 100


def test_two_readers_share_a_topic_and_every_record_is_done(broker, tmp_path):
    """The second joins while the first works, and leaves before it ends: each move is a rebalance of the group.

    ``done`` holds what was acknowledged. Repeats are allowed, holes and records that are committed undone are not.
    """
    topic, n = broker.topic(), 2000
    done: list[int] = []
    stops = [threading.Event(), threading.Event()]
    shares = [0, 0]

    def run(number: int) -> None:
        opened = source(broker, topic)

        def deliver(records: list[Record]) -> Delivered:
            time.sleep(0.002)
            done.extend(int(record.value) for record in records)
            shares[number] += len(records)
            return Delivered(acknowledged=len(records))

        settings = IngestSettings(batch=20, commit_every=0.2)
        rejected = RejectedFile(tmp_path / f"rejected-{number}")
        Ingestion(opened, deliver, rejected, settings, Stopping(stops[number].is_set)).run()
        opened.close()

    def wait(condition, what: str) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < until, f"{what}: {len(done)} done, shares {shares}"
            time.sleep(0.05)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in (0, 1)]
    threads[0].start()
    broker.produce(topic, numbered(n)[:500])
    wait(lambda: shares[0] >= 100, "the first reads")
    threads[1].start()
    produced = 500
    while not shares[1]:
        assert produced < n - 100, "the second never got a partition"
        broker.produce(topic, [b"%d" % number for number in range(produced, produced + 20)])
        produced += 20
        time.sleep(0.5)
    stops[1].set()
    threads[1].join(PATIENCE)
    broker.produce(topic, [b"%d" % number for number in range(produced, n)])
    wait(lambda: len(set(done)) == n, "all are done")
    stops[0].set()
    threads[0].join(PATIENCE)
    assert set(done) == set(range(n))
    assert broker.committed(topic, topic) == n


def test_a_partition_that_went_elsewhere_is_not_committed(broker):
    """Its next reader may be further on, and an offset of this one would set it back."""
    topic = broker.topic()
    broker.produce(topic, numbered(40))
    opened = source(broker, topic)
    _, position = read(opened, 40)
    lost = next(iter(position))
    opened._on_lost(None, [opened._kafka.TopicPartition(lost[0], lost[1])])
    opened.commit(position)
    assert broker.committed(topic, topic) == 30
    opened._on_assign(None, [opened._kafka.TopicPartition(lost[0], lost[1])])
    opened.commit({lost: position[lost]})  # of the assignment before
    assert broker.committed(topic, topic) == 30
    opened.close()


def test_a_topic_that_is_not_there_ends_the_run(broker):
    if not broker.makes_topics:
        pytest.skip("the broker within librdkafka makes every topic that is asked for")
    opened = source(broker, "no-such-topic")
    with pytest.raises(ServerError, match="no-such-topic"):
        read(opened, 1)
    opened.close()


def test_brokers_that_are_away_are_told_and_waited_for():
    told: list[str] = []
    opened = KafkaSource(KafkaAddress(brokers="127.0.0.1:1", topic="t"), QUICK, told.append)
    until = time.monotonic() + PATIENCE
    while not told and time.monotonic() < until:
        assert not opened.poll(1, 0.1).records
    opened.close()
    assert told
    assert len(told) <= 4, "the same trouble is not told again and again"


def test_an_address_says_brokers_topic_and_group():
    address = KafkaAddress.parse("kafka://a:9092,b:9092/events?group=signals&start=latest")
    assert address == KafkaAddress(brokers="a:9092,b:9092", topic="events", group="signals", start="latest")
    assert KafkaAddress.parse("kafka://a:9092/events") == KafkaAddress(brokers="a:9092", topic="events")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("kafka://a:9092", "kafka://HOST:PORT/TOPIC"),
        ("kafka:///events", "kafka://HOST:PORT/TOPIC"),
        ("kafka://a/b/c", "kafka://HOST:PORT/TOPIC"),
        ("kafka://a/b?group=", "group=''"),
        ("kafka://a/b?start=now", "start='now'"),
        ("kafka://a/b?acks=all", r"\['acks'\]: expected only group and start"),
        ("kafka://me:s3cret@a/b", "no user and password in the address"),
    ],
)
def test_another_address_is_refused(address, message):
    with pytest.raises(ConfigError, match=message) as refused:
        KafkaAddress.parse(address)
    assert "s3cret" not in str(refused.value)


def test_properties_come_from_a_file_and_the_environment(tmp_path):
    file = tmp_path / "kafka.properties"
    file.write_text("# of the cluster\nsecurity.protocol = SASL_SSL\n\nsasl.password=a=b\nsasl.username=me\n")
    environment = {"PINREC_KAFKA_SASL_USERNAME": "you", "PATH": "/bin"}
    assert kafka_properties(file, environment) == {
        "security.protocol": "SASL_SSL", "sasl.password": "a=b", "sasl.username": "you",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"enable\.auto\.commit is set: expected it not to be"):
        kafka_properties(None, {"PINREC_KAFKA_ENABLE_AUTO_COMMIT": "true"})
    file.write_text("sasl.password=x\ns3cret\n")
    with pytest.raises(ConfigError, match="line 2: expected name=value") as refused:
        kafka_properties(file, {})
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "properties",
    [
        {"security.protocol": "s3cret"},
        {"sasl.mechanism": "PLAIN", "sasl.password": "s3cret", "no.such.property": "s3cret"},
        {"ssl.key.password": "s3cret", "ssl.key.location": "/nowhere/s3cret", "security.protocol": "SSL"},
    ],
)
def test_no_message_and_no_log_shows_the_value_of_a_property(properties, caplog):
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ConfigError, match=sorted(properties)[-1]) as refused:
        KafkaSource(KafkaAddress(brokers="127.0.0.1:1", topic="t"), properties)
    assert "s3cret" not in str(refused.value) + caplog.text
    assert refused.value.__cause__ is None
    assert isinstance(refused.value, PinRecError)
