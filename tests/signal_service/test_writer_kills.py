"""``kill -9`` of the writer at random moments, a few rounds of the program that does hundreds of them."""

from __future__ import annotations

import pytest

from benchmarks.signals.writer_kills import Kills, _compare, batch, expected, forgotten_by, run
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Durability

LAST = 100


@pytest.mark.parametrize("durability", Durability)
def test_no_acknowledged_event_is_lost_and_no_batch_is_there_in_part_or_twice(tmp_path, durability):
    result = run(6, location=str(tmp_path / "realtime"), durability=durability, seed=3)
    assert result.sound, result
    assert result.rounds == 6
    assert result.events > 0


@pytest.fixture
def store(tmp_path):
    """All batches up to ``LAST`` as a writer leaves them that is not killed."""
    left = expected(1, LAST)
    with RocksDbEventStore.open_primary(tmp_path / "realtime") as opened:
        for number in range(1, LAST + 1):
            opened.append([event for event in batch(number) if event.event_id in left[number]])
        yield opened


def found_wrong(store, *, last: int = LAST) -> Kills:
    result = Kills(durability="process")
    _compare(store, 1, last, result)
    return result


def test_the_oracle_finds_nothing_in_a_sound_store(store):
    assert found_wrong(store).sound
    assert found_wrong(store, last=LAST - 1).sound  # the last one as the batch that was under way
    assert sum(not ids for ids in expected(1, LAST).values()) > 10  # removed
    assert sum(forgotten_by(number) is not None for number in range(1, LAST)) == 3


def test_the_oracle_finds_every_fault(store):
    """The comparison can fail: it notices each of the faults that it counts."""
    sizes = {number: len(batch(number)) for number in range(40, 60) if len(expected(1, LAST)[number]) > 2}
    number = next(iter(sizes))
    whole = [event for event in batch(number) if event.event_id in expected(1, LAST)[number]]
    store.remove(whole[:1])
    assert found_wrong(store).holes == 1
    store.remove(whole)
    assert (found_wrong(store).lost, found_wrong(store).holes) == (1, 0)
    store.append(whole)
    removed = next(n for n in range(10, LAST) if (n + 1) % 7 == 0)
    store.append(batch(removed))
    assert found_wrong(store).returned == len(batch(removed))
    store.remove(batch(removed))
    store.append(batch(LAST + 3))
    assert found_wrong(store).duplicates == 1  # of a batch that nobody had sent yet
    store.remove(batch(LAST + 3))
    assert len(batch(LAST + 1)) > 1
    store.append(batch(LAST + 1)[:1])  # in part
    assert found_wrong(store).holes == 1
