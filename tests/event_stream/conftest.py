"""A service that really stores, and brokers of Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.event_stream.brokers import Broker, mock_cluster, tansu
from tests.event_stream.storing import StoringService, storing_service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[StoringService]:
    with storing_service(tmp_path / "service") as service:
        yield service


@pytest.fixture(scope="session", params=["mock", "tansu"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    with mock_cluster() if request.param == "mock" else tansu() as broker:
        yield broker
