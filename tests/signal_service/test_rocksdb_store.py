"""The RocksDB store fulfils the contract of ``EventStore``, across processes as well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rocksdict import Options, Rdict

from pinrec_core.errors import StoreError
from pinrec_core.history import ItemType
from signal_service import rocksdb_store
from signal_service.event_codec import TOMBSTONES, event_key, event_value, user_of
from signal_service.rocksdb_store import USERS_PER_SCAN, RocksDbEventStore
from signal_service.store import Durability, Event, EventReader, EventStore, Span, UserEvents


def read(store: EventReader, user: bytes = b"u", *, since: int = 0, until: int = 10**12, limit: int = 10**6) -> list:
    """The user's events in one span."""
    (found,) = store.read([Span(user_key=user, since=since, until=until, limit=limit)])
    return list(found.events)


WHOLE = Span(user_key=b"u", since=0, until=100, limit=100)


def event(event_id: str, timestamp: int, user: bytes = b"u", **changes: object) -> Event:
    values: dict = {"item_key": -5, "item_type": ItemType.PIN, "action": "save", "surface": "home"}
    return Event(event_id=event_id, user_key=user, timestamp=timestamp, **(values | changes))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RocksDbEventStore]:
    with RocksDbEventStore.open_primary(tmp_path / "realtime") as opened:
        yield opened


def test_reads_in_order_of_time_whatever_the_order_of_appends(store: EventStore):
    store.append([event("a", 5), event("b", 3)])
    store.append([event("c", 4, query="red shoes", item_type=ItemType.QUERY, action="search")])
    stored = read(store)
    assert [e.event_id for e in stored] == ["b", "c", "a"]
    assert stored[1] == event("c", 4, query="red shoes", item_type=ItemType.QUERY, action="search")


def test_appending_again_changes_nothing(store: EventStore):
    events = [event("a", 5), event("b", 5), event("a", 5)]
    store.append(events)
    before = read(store)
    store.append(events)
    assert read(store) == before
    assert [e.event_id for e in before] == ["a", "b"]


def test_a_span_is_half_open_and_the_limit_keeps_the_newest(store: EventStore):
    store.append([event(str(t), t) for t in range(10)])
    assert [e.timestamp for e in read(store, b"u", since=3, until=7, limit=99)] == [3, 4, 5, 6]
    assert [e.timestamp for e in read(store, b"u", since=3, until=7, limit=2)] == [5, 6]
    assert read(store, b"u", since=7, until=7, limit=9) == read(store, b"u", since=3, until=7, limit=0) == []


def test_users_whose_ids_begin_alike_are_apart(store: EventStore):
    users = [b"a", b"aa", b"aaa", b"b", b"\xff", b"\xff\xff", b"\x00"]
    store.append([event("x", 5, user) for user in users])
    for user in users:
        assert [e.user_key for e in read(store, user)] == [user]
    assert read(store, b"nobody") == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"ab", b"b"]), st.integers(0, 9), st.sampled_from("xyz")), max_size=20),
    st.integers(0, 9),
    st.integers(0, 10),
    st.integers(0, 5),
)
def test_equals_a_dictionary(tmp_path_factory, appended, since, until, limit):
    expected: dict = {}
    with RocksDbEventStore.open_primary(tmp_path_factory.mktemp("store")) as opened:
        for user, time, event_id in appended:
            opened.append([event(event_id, time, user)])
            expected[user, time, event_id] = True
        for user in (b"a", b"ab", b"b"):
            mine = sorted((t, i) for u, t, i in expected if u == user and since <= t < until)
            found = read(opened, user, since=since, until=until, limit=limit)
            assert [(e.timestamp, e.event_id) for e in found] == mine[len(mine) - min(limit, len(mine)) :]


def test_events_survive_closing(tmp_path):
    with RocksDbEventStore.open_primary(tmp_path / "realtime", durability=Durability.DISK) as first:
        first.append([event("a", 5)])
    with RocksDbEventStore.open_primary(tmp_path / "realtime") as second:
        assert read(second) == [event("a", 5)]


def test_misuse_is_told(store: RocksDbEventStore, tmp_path):
    with pytest.raises(StoreError, match="cannot be opened for writing: another process writes to it"):
        RocksDbEventStore.open_primary(tmp_path / "realtime")
    (tmp_path / "file").write_text("")
    for place in ("file", "file/within"):
        with pytest.raises(StoreError, match=f"{place}: expected a folder for the real-time store"):
            RocksDbEventStore.open_primary(tmp_path / place)
    with pytest.raises(StoreError, match="expected a real-time store"):
        RocksDbEventStore.open_secondary(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
    with pytest.raises(StoreError, match="event_id=''"):
        store.append([event("ok", 1), event("", 2)])
    assert read(store) == []
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        read(store)


def test_two_secondaries_follow_and_clean_up(store: RocksDbEventStore, tmp_path):
    readers = [RocksDbEventStore.open_secondary(tmp_path / "realtime") for _ in range(2)]
    folders = [reader._private.path for reader in readers]
    store.append([event("a", 5)])
    for reader in readers:
        reader.refresh()
        assert read(reader) == [event("a", 5)]
        with pytest.raises(StoreError, match="expected the primary"):
            reader.append([event("b", 6)])
        reader.close()
    assert folders[0] != folders[1]
    assert not any(folder.exists() for folder in folders)


def test_a_forgotten_time_is_not_even_stored(store: RocksDbEventStore):
    store.append([event("a", 5), event("b", 6), event("c", 5, b"v")])
    store.forget(b"u", at=5)
    store.append([event("late", 4), event("d", 7), event("e", 5, b"v")])
    keys = [key for key in store._open.keys() if not key.startswith(TOMBSTONES)]  # noqa: SIM118, it is no dict
    assert [(user_of(key), key[-1:]) for key in keys] == [(b"u", b"b"), (b"u", b"d"), (b"v", b"c"), (b"v", b"e")]


def test_a_tombstone_survives_and_is_found_again(tmp_path):
    with RocksDbEventStore.open_primary(tmp_path / "realtime") as first:
        first.append([event("a", 5), event("b", 6)])
        first.forget(b"u", at=5)
    with RocksDbEventStore.open_primary(tmp_path / "realtime") as second:
        second.append([event("a", 5), event("c", 3)])
        assert second.read([WHOLE]) == [UserEvents([event("b", 6)], 5)]
        assert list(second.forgotten()) == [(b"u", 5)]
    with RocksDbEventStore.open_primary(tmp_path / "realtime") as third:
        third.forget(b"u", at=6)
        assert third.read([WHOLE]) == [UserEvents([], 6)]
        assert list(third.user_keys()) == []


def test_a_tombstone_survives_kill_9_of_a_writer_that_does_not_sync(tmp_path):
    """The child forgets and says so; nothing is closed."""
    script = (
        "import sys; from pathlib import Path; from signal_service.rocksdb_store import RocksDbEventStore as Store\n"
        "from tests.signal_service.test_rocksdb_store import event\n"
        "store = Store.open_primary(Path(sys.argv[1])); store.append([event('a', 5), event('b', 6)])\n"
        "store.forget(b'u', at=5); print('done', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "realtime")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "done\n"
        child.kill()
    with RocksDbEventStore.open_primary(tmp_path / "realtime") as store:
        assert store.read([WHOLE]) == [UserEvents([event("b", 6)], 5)]


def test_a_store_of_before_there_were_tombstones_opens_as_it_is(tmp_path):
    """Written as then: one key per event in a database without options of ours."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    with closing(Rdict(str(tmp_path / "realtime"), options)) as database:
        for one in (event("a", 5), event("b", 6, b"v")):
            database[event_key(one)] = event_value(one)
    with RocksDbEventStore.open_primary(tmp_path / "realtime") as store:
        assert read(store) == [event("a", 5)]
        assert list(store.user_keys()) == [b"u", b"v"]
        assert list(store.forgotten()) == []
        store.forget(b"u", at=5)
        assert list(store.user_keys()) == [b"v"]


def test_all_users_of_a_large_store_are_found_once(store: RocksDbEventStore):
    """More than one scan of users, and of tombstones."""
    users = [b"%d" % number for number in range(USERS_PER_SCAN + 10)]
    store.append([event(name, time, user) for user in users for time in (1, 2) for name in "ab"])
    assert list(store.user_keys()) == sorted(users, key=lambda user: (len(user), user))
    for user in users:
        store.forget(user, at=1)
    assert sorted(store.forgotten()) == sorted((user, 1) for user in users)
    assert len(list(store.user_keys())) == len(users)


def test_a_writer_waits_instead_of_filling_the_memory(tmp_path, monkeypatch):
    """What is not in files yet is bounded by the write buffers, whatever is written; nothing of it is refused."""
    monkeypatch.setattr(rocksdb_store, "BUFFER_BYTES", 64 << 10)
    with RocksDbEventStore.open_primary(tmp_path / "realtime") as store:
        largest = 0
        for batch in range(400):
            store.append([event(f"{batch}-{i}", batch, query="q" * 1000) for i in range(10)])
            largest = max(largest, store._open.property_int_value("rocksdb.cur-size-all-mem-tables"))
        assert largest < 3 * rocksdb_store.BUFFERS * rocksdb_store.BUFFER_BYTES  # of 4 MB that were written
        assert len(read(store)) == 4_000


def test_threads_share_a_store(store: RocksDbEventStore):
    """One appends, one removes what it finds, one reads and lists: nothing fails, and what nobody removes stays."""
    failed: list[BaseException] = []
    stop = threading.Event()

    def guarded(work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                while not stop.is_set():
                    work()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def remove() -> None:
        store.remove(read(store, b"passing", limit=50))

    def look() -> None:
        assert {b"staying"} >= set(store.user_keys()) - {b"passing"}
        read(store, b"passing")

    threads = [guarded(remove), guarded(look)]
    try:
        for time in range(300):
            store.append([event("a", time, b"passing"), event("a", time, b"staying")])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert [e.timestamp for e in read(store, b"staying")] == list(range(300))


WRITER = """
import sys
from pathlib import Path
from pinrec_core.history import ItemType
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Event

store = RocksDbEventStore.open_primary(Path(sys.argv[1]))
print("open", flush=True)
for line in sys.stdin:
    time = int(line)
    store.append([Event(event_id=line.strip(), user_key=b"u", item_key=time, item_type=ItemType.PIN, action="save",
                        surface="home", timestamp=time)])
    print(time, flush=True)
"""


class Writer:
    """A primary in a process of its own. ``append`` returns when the process has appended the event."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout.readline() == "open\n"

    def append(self, time: int) -> None:
        self._process.stdin.write(f"{time}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == f"{time}\n"

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def times(reader: RocksDbEventStore) -> list[int]:
    reader.refresh()
    return [e.timestamp for e in read(reader)]


def test_a_reader_in_another_process_sees_appends_at_once_and_through_a_crash(tmp_path):
    """Each append is visible to the next read, kill -9 of the writer loses none, and readers follow a new writer."""
    path = tmp_path / "realtime"
    writer = Writer(path)
    writer.append(1)
    reader = RocksDbEventStore.open_secondary(path)
    try:
        assert times(reader) == [1]
        for time in range(2, 30):
            writer.append(time)
            assert times(reader) == list(range(1, time + 1))
        writer.kill()
        assert times(reader) == list(range(1, 30))
        writer = Writer(path)
        assert times(reader) == list(range(1, 30))
        writer.append(30)
        assert times(reader) == list(range(1, 31))
    finally:
        writer.kill()
        reader.close()
    with RocksDbEventStore.open_primary(path) as recovered:
        assert [e.timestamp for e in read(recovered)] == list(range(1, 31))
