"""What a batch holds leaves the real-time store, and nothing else does."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.errors import DataError
from pinrec_core.history import NO_OUTCOME, ItemType
from pinrec_core.ids import IdKind, string_key, user_store_key
from pinrec_core.stages.metrics import EVENTS_CHECKED, EVENTS_SWEPT, SWEPT_UNTIL
from signal_service.batch_view import BatchView
from signal_service.expiry import HeldBy, Sweeper, Swept, oldest_batch, sweep
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Event, Span
from signal_service.view_writing import write_batch_view
from tests.recorded import Recorded
from tests.signal_service.builders import EVENTS, PIN, QUERY, make_history, make_manifest

END = 1_000
SAVE, CLICK = 0, 1
SHOES = string_key("red shoes")
SEVEN = user_store_key(7, IdKind.INT)
EIGHT = user_store_key(8, IdKind.INT)
HISTORIES = {
    7: [(101, PIN, SAVE, 1, 500), (102, PIN, CLICK, 1, 600), (SHOES, QUERY, NO_OUTCOME, 1, 600)],
    8: [(101, PIN, SAVE, 1, 900)],
}


def event(event_id: str, at: int, user_key: bytes = SEVEN, item: int = 101, action: str = "save") -> Event:
    is_query = action == "search"
    return Event(
        event_id=event_id, user_key=user_key, item_key=SHOES if is_query else item,
        item_type=ItemType.QUERY if is_query else ItemType.PIN, action=action, surface="home", timestamp=at,
        query="red shoes" if is_query else "",
    )  # fmt: skip


def make_batch(folder: Path, histories: dict[int, list[tuple]] = HISTORIES, end_time: int = END) -> Path:
    """A folder with a batch view, as a snapshot is one, too."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = make_manifest(IdKind.INT, EVENTS)
    manifest.save(folder)
    info = BatchInfo(
        end_time=end_time, feature_space=manifest.feature_space, outcomes=manifest.outcomes,
        surfaces=manifest.surfaces, num_users=len(histories), num_interactions=sum(map(len, histories.values())),
    )  # fmt: skip
    write_batch_view(folder, [(user, make_history(rows)) for user, rows in sorted(histories.items())], info)
    return folder


def make_snapshot(signals: Path, name: str, *, finished: bool = True, start_time: int | None = None, **batch) -> Path:
    folder = make_batch(signals / "snapshots" / name, **batch)
    if finished:
        (folder / "snapshot.json").write_text(json.dumps({"name": name, "start_time": start_time}))
    return folder


@pytest.fixture
def view(tmp_path: Path) -> Iterator[BatchView]:
    opened = BatchView.open(make_batch(tmp_path / "signals"))
    yield opened
    opened.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RocksDbEventStore]:
    with RocksDbEventStore.open_primary(tmp_path / "realtime") as opened:
        yield opened


def left(store: RocksDbEventStore) -> list[str]:
    spans = [Span(user_key=user, since=0, until=1 << 40, limit=1 << 40) for user in store.user_keys()]
    return sorted(event.event_id for one in store.read(spans) for event in one.events)


def test_what_a_view_holds(view: BatchView):
    holds = HeldBy(view)
    held = [
        event("same", 500), event("click", 600, item=102, action="click"), event("search", 600, action="search"),
        event("8", 900, EIGHT), event("no history holds this action", 700, action="hide"),
    ]  # fmt: skip
    not_held = [
        event("another time", 501), event("another item", 500, item=102), event("another outcome", 500, action="click"),
        event("another user", 500, EIGHT), event("unknown user", 500, b"\x80" * 8),
        event("another time", 500, action="search"),
        event("from the end on", END), event("from the end on", END, action="hide"),
    ]  # fmt: skip
    assert [e.event_id for e in held if not holds(e.user_key, e)] == []
    assert [e.event_id for e in not_held if holds(e.user_key, e)] == []


def test_what_is_too_old_to_be_held(view: BatchView):
    """Before the window, or before the oldest interaction of a history that is full. A shorter one could take it."""
    old, older = event("old", 499), event("older", 300)
    assert not HeldBy(view)(SEVEN, old)
    assert HeldBy(view, full=3)(SEVEN, old)
    assert not HeldBy(view, full=4)(SEVEN, old)
    assert not HeldBy(view, full=3)(SEVEN, event("as old as the oldest", 500, item=105))
    assert not HeldBy(view, start_time=499)(SEVEN, old)
    assert HeldBy(view, start_time=499)(SEVEN, older)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 1000])
def test_a_sweep_removes_what_is_held_in_chunks_of_any_size(store: RocksDbEventStore, chunk: int):
    users = [b"%d" % number for number in range(7)]
    events = [event(f"{user!r} {at}", at, user) for user in users for at in range(10, 20)]
    store.append(events)
    asked: list[tuple[bytes, int]] = []

    def holds(user_key: bytes, one: Event) -> bool:
        asked.append((user_key, one.timestamp))
        return one.timestamp % 3 == 0

    assert sweep(store, holds, chunk=chunk, until=18) == Swept(checked=56, removed=14)
    assert sorted(asked) == [(user, at) for user in users for at in range(10, 18)]
    assert left(store) == sorted(e.event_id for e in events if e.timestamp % 3 or e.timestamp >= 18)
    assert sweep(store, holds, chunk=chunk, until=18) == Swept(checked=42, removed=0)


def test_a_second_with_more_events_than_a_chunk_does_not_stop_a_sweep(store: RocksDbEventStore):
    """Of that second only some are looked at: memory is bounded. Other sweeps look at the others."""
    store.append([event(f"{i:02}", 15) for i in range(20)] + [event("before", 14), event("behind", 16)])
    removed = sum(sweep(store, lambda user, one: True, chunk=8).removed for _ in range(3))
    assert removed == 22
    assert left(store) == []


def test_a_sweep_that_is_ended_is_made_up_for(store: RocksDbEventStore):
    store.append([event(str(at), at, user) for user in (SEVEN, EIGHT) for at in range(10)])
    answers = iter([True, False])
    ended = sweep(store, lambda user, one: True, chunk=5, proceed=lambda: next(answers, False))
    assert not ended.complete
    assert ended.removed == ended.checked < 20 or ended.checked == 20
    assert sweep(store, lambda user, one: True, chunk=5) == Swept(
        checked=20 - ended.removed, removed=20 - ended.removed
    )


def test_the_oldest_finished_snapshot_counts(tmp_path: Path):
    assert oldest_batch(tmp_path) is None
    (tmp_path / "batch").mkdir()
    assert oldest_batch(tmp_path) == tmp_path  # a folder of before there were snapshots
    for name, finished in (
        ("20261127T000000-10", True), ("20261127T000000-9", True), ("20261126T000000-1", False), ("other", True),
        ("20261128T000000-1", True),
    ):  # fmt: skip
        (tmp_path / "snapshots" / name).mkdir(parents=True)
        if finished:
            (tmp_path / "snapshots" / name / "snapshot.json").write_text("{}")
    oldest = oldest_batch(tmp_path)
    assert oldest is not None
    assert oldest.name == "20261127T000000-9"


def test_a_late_event_stays_until_every_snapshot_holds_it(tmp_path: Path, store: RocksDbEventStore):
    """The older of two snapshots decides, so that a rollback to it loses nothing. Once it is pruned, the other does."""
    signals, metrics = tmp_path / "signals", Recorded()
    with_late = {**HISTORIES, 8: [(105, PIN, SAVE, 1, 800), *HISTORIES[8]]}
    older = make_snapshot(signals, "20261127T000000-1")
    make_snapshot(signals, "20261128T000000-1", histories=with_late, end_time=2_000)
    late = event("late for the older", 800, EIGHT, item=105)
    store.append([event("held by both", 500), late, event("new", 1_500)])
    sweeper = Sweeper(store, signals, metrics=metrics, pause_seconds=0)
    assert sweeper.sweep_if_new() == Swept(checked=2, removed=1)
    assert left(store) == ["late for the older", "new"]
    assert sweeper.sweep_if_new() is None  # once for each oldest snapshot
    shutil.rmtree(older)
    assert sweeper.sweep_if_new() == Swept(checked=2, removed=1)
    assert left(store) == ["new"]
    store.append([late])  # a repeated event comes again, and goes with the next batch
    make_snapshot(signals, "20261127T000000-2", histories=with_late, end_time=1_999)
    sweeper.sweep_if_new()
    assert left(store) == ["new"]
    assert (metrics.total(EVENTS_CHECKED), metrics.total(EVENTS_SWEPT)) == (6, 3)
    assert metrics.of(SWEPT_UNTIL) == [1_000, 2_000, 1_999]


def test_events_from_before_the_window_of_a_snapshot_go(tmp_path: Path, store: RocksDbEventStore):
    make_snapshot(tmp_path / "signals", "20261127T000000-1", start_time=400)
    store.append([event("before", 399), event("within", 400)])
    assert Sweeper(store, tmp_path / "signals", pause_seconds=0).sweep_if_new() == Swept(checked=2, removed=1)
    assert left(store) == ["within"]


def test_how_many_interactions_a_batch_keeps_is_told_by_its_run(tmp_path: Path, store: RocksDbEventStore):
    """What was cut away by a job that keeps few would stay for ever, and what one that keeps many can take would go."""
    folder = make_snapshot(tmp_path / "signals", "20261127T000000-1")
    (folder / "sequences").mkdir()
    run = folder / "sequences" / "run.json"
    store.append([event("cut away", 499), event("held", 500), event("of a user with a short history", 400, EIGHT)])
    for full, removed in ((4, 1), (3, 1), (0, None)):
        run.write_text(json.dumps({"start_time": None, "max_interactions_per_user": full}))
        sweeper = Sweeper(store, tmp_path / "signals", pause_seconds=0)
        if removed is None:
            with pytest.raises(DataError, match="max_interactions_per_user=0"):
                sweeper.sweep_if_new()
        else:
            swept = sweeper.sweep_if_new()
            assert swept is not None
            assert swept.removed == removed
    assert left(store) == ["of a user with a short history"]


def test_a_batch_that_is_no_snapshot_is_swept_with_once(tmp_path: Path, store: RocksDbEventStore):
    """Readers do not follow one that replaces it; what only that holds must stay until they are restarted."""
    signals = make_batch(tmp_path / "signals")
    store.append([event("held", 500), event("held by the next", 501)])
    sweeper = Sweeper(store, signals, pause_seconds=0)
    assert sweeper.sweep_if_new() == Swept(checked=2, removed=1)
    make_batch(signals, {7: [(101, PIN, SAVE, 1, 501)]}, end_time=2_000)
    assert sweeper.sweep_if_new() is None
    assert left(store) == ["held by the next"]
    assert Sweeper(store, signals, pause_seconds=0).sweep_if_new() == Swept(checked=1, removed=1)


def test_a_thread_sweeps_whenever_another_snapshot_is_the_oldest(
    tmp_path: Path, store: RocksDbEventStore, caplog: pytest.LogCaptureFixture
):
    """A snapshot that cannot be read is logged, keeps everything, and is tried again."""
    signals = tmp_path / "signals"
    store.append([event("held", 500), event("late", 501)])
    broken = signals / "snapshots" / "20261126T000000-1"
    broken.mkdir(parents=True)
    (broken / "snapshot.json").write_text("{}")
    sweeper = Sweeper(store, signals, check_seconds=0.01, pause_seconds=0)
    with caplog.at_level(logging.WARNING):
        sweeper.start()
        try:
            wait_until(lambda: "was not swept" in caplog.text)
            assert left(store) == ["held", "late"]
            make_snapshot(signals, "20261127T000000-1")
            shutil.rmtree(broken)
            wait_until(lambda: left(store) == ["late"])
        finally:
            sweeper.close()
    store.append([event("held", 500)])  # the store is usable still


def test_a_sweeper_that_was_never_started_can_be_closed(tmp_path: Path, store: RocksDbEventStore):
    Sweeper(store, tmp_path).close()


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(3_000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that")
