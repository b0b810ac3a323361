"""``pinrec ingest`` through the real Triton into the real store, which the next request reads."""

from __future__ import annotations

import json
import time

import pytest

from tests.end_to_end.conftest import pinrec
from tests.event_stream.brokers import mock_cluster

pytestmark = pytest.mark.triton


def test_events_of_a_file_count_in_the_next_answer_and_a_repeated_run_adds_nothing(ml100k_server, client, tmp_path):
    user, now = 880_001, int(time.time())
    before = [item.item_id for item in client.recommend(user, num_items=50).items]
    seen = before[:20]
    good = [
        {"event_id": f"s{item}", "user_id": user, "item_id": item, "action": "like", "timestamp": now} for item in seen
    ]
    refused = good[0] | {"event_id": "r", "action": "no such action"}
    lines = [json.dumps(row) for row in (*good[:7], refused, *good[7:])]
    lines.insert(3, "{not json")
    source, rejected = tmp_path / "events.jsonl", tmp_path / "rejected.jsonl"
    source.write_text("\n".join(lines) + "\n")
    options = ("ingest", "--from", source, "--rejected", rejected, "--server", ml100k_server.url, "--json")

    first = json.loads(pinrec(*options).stdout)
    assert (first["read"], first["acknowledged"], first["unreadable"], first["refused"]) == (22, 20, 1, 1)
    assert first["committed"]
    reasons = {line["why"]: line["reason"] for line in map(json.loads, rejected.read_text().splitlines())}
    assert "JSON" in reasons["unreadable"]
    assert reasons["refused"].startswith("event_action='no such action': expected one of")
    after = [item.item_id for item in client.recommend(user, num_items=50, exclude_seen=True).items]
    assert not set(after) & set(seen), "the next request knows all of them"

    again = json.loads(pinrec(*options).stdout)
    assert (again["read"], again["committed"]) == (0, True)
    source.with_name("events.jsonl.checkpoint").unlink()
    anew = json.loads(pinrec(*options).stdout)
    assert anew["acknowledged"] == 20, "the same events again, which the store keeps once"


def test_events_of_a_topic_count_in_the_next_answer(ml100k_server, client, tmp_path):
    """From the broker within librdkafka, over the consumer group, through the real Triton."""
    user, now = 880_002, int(time.time())
    seen = [item.item_id for item in client.recommend(user, num_items=20).items]
    with mock_cluster() as broker:
        topic = broker.topic()
        broker.produce(topic, [
            json.dumps({"user_id": user, "item_id": item, "action": "like", "timestamp": now}).encode() for item in seen
        ])  # fmt: skip
        done = pinrec(
            "ingest", "--from", f"kafka://{broker.address}/{topic}?group={topic}", "--server", ml100k_server.url,
            "--rejected", tmp_path / "rejected.jsonl", "--idle", 8, "--json",
        )  # fmt: skip
        assert broker.committed(topic, topic) == 20
    assert json.loads(done.stdout)["acknowledged"] == 20
    after = [item.item_id for item in client.recommend(user, num_items=50, exclude_seen=True).items]
    assert not set(after) & set(seen)
