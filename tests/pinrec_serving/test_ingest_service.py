"""The write path as it is served: the client, the real Triton, the real stage and its store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from pinrec_client import Event, InvalidRequestError, PinRecClient

from pinrec_core.ids import IdKind, user_store_key
from pinrec_serving.deployment import Deployment
from pinrec_serving.options import ServingOptions
from pinrec_serving.runtime import TritonServer
from signal_service.event_stores import open_reader
from signal_service.store import Span, UserEvents
from tests.pinrec_serving.conftest import REPOSITORY, manifest

pytestmark = pytest.mark.triton

USER = 17


@dataclass
class Ingest:
    client: PinRecClient
    store: Path

    def of_user(self) -> UserEvents:
        with closing(open_reader(self.store)) as reader:
            key = user_store_key(USER, IdKind.INT)
            return reader.read([Span(user_key=key, since=0, until=1 << 40, limit=1 << 20)])[0]


@pytest.fixture(scope="module")
def ingest(server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingest]:
    signals = tmp_path_factory.mktemp("signals")
    manifest().save(signals)
    options = ServingOptions(signals=signals, realtime=signals / "realtime", durability="disk", max_lateness=3600)
    Deployment(server, REPOSITORY, options).deploy_ingest(manifest())
    with PinRecClient(server.endpoint.grpc, timeout=30.0) as client:
        yield Ingest(client=client, store=signals / "realtime")


def test_events_are_stored_and_a_user_is_forgotten(ingest: Ingest):
    now = int(time.time())
    before = [Event(user_id=USER, action="click", timestamp=now - 10 + i, item_id=i) for i in range(5)]
    assert ingest.client.log_events(before) == 5
    assert ingest.client.log_events(before[:2]) == 2
    assert len(ingest.of_user().events) == 5
    assert ingest.client.forget_user(USER, at=now - 8) == now - 8
    assert ingest.client.log_events(before) == 5  # sent again: taken, and not seen
    found = ingest.of_user()
    assert [event.timestamp for event in found.events] == [now - 7, now - 6]
    assert found.forgotten_at == now - 8


def test_what_is_too_late_is_refused_and_stores_nothing(ingest: Ingest):
    stored = ingest.of_user()
    late = Event(user_id=USER, action="click", timestamp=int(time.time()) - 7200, item_id=1)
    with pytest.raises(InvalidRequestError, match="events may be 3600 s late here"):
        ingest.client.log_events([late])
    with pytest.raises(InvalidRequestError, match="event_action"):
        ingest.client.log_events([Event(user_id=USER, action="forget_me", timestamp=int(time.time()), item_id=1)])
    assert ingest.of_user() == stored
