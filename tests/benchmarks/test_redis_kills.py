"""A few rounds of each kind of kill. The full number is ``python -m benchmarks.signals.redis_kills``."""

from __future__ import annotations

import pytest

from benchmarks.signals.redis_kills import Killed, Outcome, _check, batch, run
from benchmarks.signals.redis_server import MISSING, RedisServer, installed
from signal_service.redis_store import RedisEventStore

pytestmark = pytest.mark.skipif(not installed(), reason=MISSING)
ROUNDS = 5


@pytest.mark.parametrize("killed", [Killed.WRITER, Killed.SERVER_ALWAYS])
def test_a_kill_loses_nothing_that_was_acknowledged(killed, tmp_path):
    outcome = run(killed, rounds=ROUNDS, folder=tmp_path)
    assert outcome.rounds == ROUNDS
    assert outcome.acknowledged > 0
    assert (outcome.lost, outcome.holes, outcome.duplicates) == (0, 0, 0), outcome


def test_with_an_fsync_each_second_what_is_lost_is_the_end(tmp_path):
    """Redis may put off writing while an fsync is under way, so that none is lost is not promised."""
    outcome = run(Killed.SERVER_EVERYSEC, rounds=ROUNDS, folder=tmp_path)
    assert outcome.acknowledged > 0
    assert (outcome.holes, outcome.duplicates) == (0, 0), outcome


def test_losses_are_noticed(tmp_path):
    outcome = run(Killed.SERVER_WITHOUT_LOG, rounds=2, folder=tmp_path)
    assert outcome.lost * len(batch(0)) == outcome.acknowledged > 0


def test_holes_parts_and_strangers_are_noticed(tmp_path):
    """Of batches 0 to 4 are acknowledged: 1 is missing, 2 is there in part, 6 was never sent."""
    with RedisServer(tmp_path) as server, RedisEventStore.open(server.location) as store:
        for number in (0, 2, 3, 4, 5, 6):
            store.append(batch(number))
        store.remove(batch(2)[:1])
        outcome = Outcome(killed="by hand")
        _check(store, first=0, acknowledged=4, outcome=outcome)
    assert (outcome.lost, outcome.holes, outcome.duplicates) == (1, 2, len(batch(6)))
    assert outcome.in_flight_stored == 1
