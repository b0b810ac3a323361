"""Every backend of the real-time store keeps the contract of ``EventStore``: the same tests for all of them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.signals import redis_server
from pinrec_core.errors import StoreError
from pinrec_core.history import ItemType
from pinrec_core.limits import EVENT_ID, ID
from signal_service.redis_store import RedisEventStore
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Event, EventReader, EventStore, Span
from tests.signal_service.store_oracle import Oracle, event, whole

LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1
COUNTER = itertools.count()


class Backend(Protocol):
    """A store that lives as long as the tests. Each test writes to users of its own."""

    def writer(self) -> EventStore: ...
    def reader(self) -> EventReader: ...


class RocksDb:
    """One primary, kept open, because a store has one writer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._primary = RocksDbEventStore.open_primary(folder)

    def writer(self) -> EventStore:
        return self._primary

    def reader(self) -> EventReader:
        return RocksDbEventStore.open_secondary(self._folder)

    def close(self) -> None:
        self._primary.close()


class Redis:
    def __init__(self, location: str) -> None:
        self._location = location
        self._store = RedisEventStore.open(location)

    def writer(self) -> EventStore:
        return self._store

    def reader(self) -> EventReader:
        return RedisEventStore.open(self._location)

    def close(self) -> None:
        self._store.close()


@contextmanager
def opened(name: str, folder: Path) -> Iterator[Backend]:
    with ExitStack() as stack:
        backend: RocksDb | Redis
        if name == "rocksdb":
            backend = RocksDb(folder / "realtime")
        else:
            if not redis_server.installed():
                pytest.skip(redis_server.MISSING)
            if name == "redis":
                backend = Redis(stack.enter_context(redis_server.RedisServer(folder)).location)
            else:
                backend = Redis(redis_server.cluster_location(stack.enter_context(redis_server.cluster(folder))))
        stack.callback(backend.close)
        yield backend


@pytest.fixture(scope="module", params=["rocksdb", "redis", "redis cluster"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with opened(request.param, tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
def store(backend: Backend) -> EventStore:
    return backend.writer()


@pytest.fixture
def user() -> bytes:
    return new_user()


def new_user() -> bytes:
    return b"%d:" % next(COUNTER)


def read(store: EventReader, span: Span) -> list[Event]:
    (found,) = store.read([span])
    return list(found.events)


def test_reads_in_order_of_time_whatever_the_order_of_appends(store: EventStore, user: bytes):
    store.append([event("a", 5, user), event("b", 3, user)])
    searched = event("c", 4, user, query="rote Schuhe 👠", item_type=ItemType.QUERY, action="search", surface="")
    store.append([searched])
    assert read(store, whole(user)) == [event("b", 3, user), searched, event("a", 5, user)]


def test_appending_again_changes_nothing(store: EventStore, user: bytes):
    events = [event("a", 5, user), event("b", 5, user), event("a", 5, user)]
    store.append(events)
    store.append(events)
    store.append(events[::-1])
    assert read(store, whole(user)) == [event("a", 5, user), event("b", 5, user)]


def test_one_id_at_one_time_is_one_event_whatever_else_it_says(store: EventStore, user: bytes):
    """Which of the two stays is the backend's affair; a limit never cuts because of the other."""
    both = [event("a", 5, user, item_key=1), event("a", 5, user, item_key=2)]
    for one in both:
        store.append([one, event("a", 4, user)])
    found = read(store, whole(user, limit=2))
    assert found[0] == event("a", 4, user)
    assert found[1] in both
    assert len(found) == 2
    store.remove([both[0]])
    assert read(store, whole(user)) == [event("a", 4, user)]


def test_a_span_is_half_open_and_the_limit_keeps_the_newest(store: EventStore, user: bytes):
    store.append([event(str(t), t, user) for t in range(10)])
    spans = [
        whole(user, since=3, until=7, limit=99),
        whole(user, since=3, until=7, limit=2),
        whole(user, since=7, until=7),
        whole(user, since=8, until=7),
        whole(user, limit=0),
    ]
    found = [[e.timestamp for e in one.events] for one in store.read(spans)]
    assert found == [[3, 4, 5, 6], [5, 6], [], [], []]


def test_a_limit_cuts_between_events_of_one_time(store: EventStore, user: bytes):
    store.append([event(name, 5, user) for name in ("b", "a", "c", "ab", "a\0", "é")])
    assert [e.event_id for e in read(store, whole(user, limit=4))] == ["ab", "b", "c", "é"]
    assert [e.event_id for e in read(store, whole(user))] == ["a", "a\0", "ab", "b", "c", "é"]


def test_users_whose_ids_begin_alike_are_apart(store: EventStore):
    users = [b"a", b"aa", b"aaa", b"b", b"\xff", b"\xff\xff", b"\x00", b"}", b"{}", b"}{", b"*", b"x" * ID.most]
    store.append([event("x", 5, user) for user in users])
    found = store.read([whole(user) for user in users])
    assert [[e.user_key for e in one.events] for one in found] == [[user] for user in users]
    listed = list(store.user_keys())
    assert len(listed) == len(set(listed))
    assert set(users) <= set(listed)
    for user in users:
        store.forget(user, at=5)
    assert not any(one.events for one in store.read([whole(user) for user in users]))
    assert {user for user, at in store.forgotten() if at == 5} >= set(users)
    assert store.read([whole(b"nobody")])[0].events == []
    assert store.read([]) == []


def test_times_are_whole_numbers_of_64_bits(store: EventStore, user: bytes):
    """A double, which has 53 bits, would make these times equal."""
    times = [LOWEST, LOWEST + 1, -1, 0, (1 << 53), (1 << 53) + 1, HIGHEST - 2, HIGHEST - 1]
    store.append([event("x", t, user) for t in reversed(times)])
    assert [e.timestamp for e in read(store, whole(user))] == times
    assert [e.timestamp for e in read(store, whole(user, since=(1 << 53) + 1, until=HIGHEST - 1))] == times[-3:-1]


def test_ids_and_texts_of_every_length(store: EventStore, user: bytes):
    events = [event("i" * EVENT_ID.most, 1, user), event("j", 1, user, action="a" * 1024, query="q" * 4096)]
    store.append(events)
    assert read(store, whole(user)) == events


def test_a_malformed_event_stores_nothing(store: EventStore, user: bytes):
    for bad in (event("", 2, user), event("x", 2, b""), event("x", 2, b"u" * (ID.most + 1))):
        with pytest.raises(StoreError, match="expected"):
            store.append([event("ok", 1, user), bad])
    assert read(store, whole(user)) == []


def test_what_is_removed_is_gone_and_may_come_again(store: EventStore, user: bytes):
    events = [event(name, time, user) for time in (1, 2) for name in ("a", "aa")]
    store.append(events)
    store.remove([events[0], event("absent", 1, user), event("a", 1, user + b"other")])
    assert read(store, whole(user)) == events[1:]
    store.append(events)
    assert read(store, whole(user)) == events
    store.remove(events)
    assert read(store, whole(user)) == []
    assert user not in set(store.user_keys())


def test_a_forgotten_user_stays_forgotten(store: EventStore, user: bytes):
    store.append([event("a", 1, user), event("b", 2, user), event("c", 3, user)])
    store.forget(user, at=2)
    assert store.read([whole(user), whole(user, limit=0)])[1].forgotten_at == 2
    assert read(store, whole(user)) == [event("c", 3, user)]
    store.append([event("a", 1, user), event("late", 2, user), event("d", 4, user)])
    assert [e.event_id for e in read(store, whole(user))] == ["c", "d"]
    store.forget(user, at=1)  # an earlier time takes nothing back
    assert store.read([whole(user)])[0].forgotten_at == 2
    store.remove([event("c", 3, user), event("d", 4, user)])
    assert (user, 2) in set(store.forgotten())
    assert store.read([whole(user + b"another")])[0].forgotten_at is None


def test_a_user_without_events_can_be_forgotten_before_any_come(store: EventStore, user: bytes):
    store.forget(user, at=HIGHEST - 1)
    store.append([event("a", 1, user), event("b", HIGHEST - 1, user)])
    assert read(store, whole(user)) == []


def test_another_reader_sees_an_append_and_a_tombstone_once_they_return(backend: Backend, user: bytes):
    store, reader = backend.writer(), backend.reader()
    try:
        for time in range(1, 20):
            store.append([event("x", time, user)])
            reader.refresh()
            assert [e.timestamp for e in read(reader, whole(user))] == list(range(1, time + 1))
        store.forget(user, at=18)
        reader.refresh()
        (found,) = reader.read([whole(user)])
        assert [e.timestamp for e in found.events] == [19]
        assert found.forgotten_at == 18
        assert (user, 18) in set(reader.forgotten())
        assert user in set(reader.user_keys())
    finally:
        reader.close()
    with pytest.raises(StoreError, match="is closed"):
        reader.read([whole(user)])


def test_a_large_append_is_whole(store: EventStore, user: bytes):
    """More than fits into one call of a script on the server, for one user and for many."""
    events = [event(f"{i:05}", 7, user) for i in range(9_000)]
    store.append([*events, *(event("x", 1, user + b"%d" % i) for i in range(1_000))])
    assert read(store, whole(user)) == events
    found = store.read([whole(user + b"%d" % i) for i in range(1_000)])
    assert [len(one.events) for one in found] == [1] * 1_000
    store.remove(events)
    assert read(store, whole(user)) == []


def test_writers_at_once_and_a_user_who_is_forgotten_meanwhile(store: EventStore, user: bytes):
    """Threads append overlapping events while the user is forgotten: nothing up to that time is left, the rest is."""
    failed: list[BaseException] = []
    start = threading.Barrier(5)

    def write(first: int) -> None:
        try:
            start.wait()
            for begin in range(first, 60, 2):
                store.append([event(str(t), t, user) for t in range(begin, begin + 6)])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    start.wait()
    for at in range(0, 30, 3):
        store.forget(user, at=at)
    for thread in threads:
        thread.join()
    assert failed == []
    found = [e.timestamp for e in read(store, whole(user))]
    assert found == sorted(found)
    assert found == list(range(28, 65))


USERS = (b"a", b"ab", b"b", b"}", b"\xff{")
TIMES = st.one_of(
    st.integers(-4, 4), st.sampled_from([LOWEST, LOWEST + 1, -(1 << 53) - 1, -(1 << 53), 1 << 53, HIGHEST - 1])
)
IDS = st.one_of(st.text(st.sampled_from("\0\1aé￿😀"), min_size=1, max_size=3), st.sampled_from(["i" * EVENT_ID.most]))
EVENT = st.builds(
    # what an event says follows from what identifies it, so that a repeated one is equal
    lambda user, time, event_id: event(
        event_id, time, user, item_key=(time * 31 + len(event_id)) % (1 << 62), query=event_id * 2, surface=event_id[:1]
    ),
    st.sampled_from(USERS),
    TIMES,
    IDS,
)
EVENTS = st.lists(EVENT, max_size=8)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), EVENTS),
        st.tuples(st.just("append again"), st.randoms(use_true_random=False)),
        st.tuples(st.just("remove"), EVENTS),
        st.tuples(st.just("remove some"), st.randoms(use_true_random=False)),
        st.tuples(st.just("forget"), st.tuples(st.sampled_from(USERS), TIMES)),
    ),
    max_size=8,
)
SPANS = st.lists(
    st.builds(
        lambda user, since, until, limit: whole(user, since=since, until=until, limit=limit),
        st.sampled_from(USERS),
        TIMES,
        st.one_of(TIMES, st.just(HIGHEST)),
        st.sampled_from([0, 1, 2, 3, 5, 1000]),
    ),
    max_size=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, spans=SPANS)
def test_equals_a_store_of_dictionaries(backend: Backend, steps, spans):
    """Appends (shuffled, repeated), removals and forgetting in any order, then any read."""
    store, oracle, prefix = backend.writer(), Oracle(), new_user()
    known: list[Event] = []
    for kind, what in steps:
        if kind == "forget":
            user, at = what
            store.forget(prefix + user, at=at)
            oracle.forget(prefix + user, at=at)
            continue
        if kind in ("append again", "remove some"):
            events = what.sample(known, len(known) // (1 if kind == "append again" else 2))
        else:
            events = [of_user(e, prefix + e.user_key) for e in what]
            known += events
        for one in (store, oracle):
            one.remove(events) if kind.startswith("remove") else one.append(events)
    asked = [whole(prefix + span.user_key, since=span.since, until=span.until, limit=span.limit) for span in spans]
    asked += [whole(prefix + user) for user in USERS]
    for got, expected, span in zip(store.read(asked), oracle.read(asked), asked, strict=True):
        assert list(got.events) == expected.events, span
        assert got.forgotten_at == expected.forgotten_at, span
    listed = [user for user in store.user_keys() if user.startswith(prefix)]
    assert sorted(listed) == sorted(oracle.users())
    assert {user: at for user, at in store.forgotten() if user.startswith(prefix)} == oracle.tombstones


def of_user(e: Event, user: bytes) -> Event:
    return event(e.event_id, e.timestamp, user, item_key=e.item_key, query=e.query, surface=e.surface)
