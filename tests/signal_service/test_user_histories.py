"""Histories equal an oracle in plain Python, over shuffled, repeated and late events, and outlast a lost part."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.dataset.catalogue import ItemCatalogue, write_catalogue
from pinrec_core.errors import ReleaseError, StoreError
from pinrec_core.history import DTYPES, NO_OUTCOME, History, ItemType
from pinrec_core.ids import IdKind, string_key
from pinrec_core.representations.text_encoder import text_encoder
from pinrec_core.stages.metrics import (
    EVENT_USES,
    HISTORIES,
    HISTORIES_DEGRADED,
    REALTIME_EVENTS,
    REALTIME_READS_CUT,
)
from signal_service import user_histories
from signal_service.history_codec import decode_history, encode_history
from signal_service.realtime import RealtimeSource
from signal_service.store import Event, Span, UserEvents
from signal_service.user_histories import UserHistories, UserHistory, check_view
from tests.recorded import Recorded
from tests.signal_service.builders import ENCODER, content_features, make_manifest
from tests.signal_service.memory_store import MemoryEventStore

USER, OTHER = b"u", b"v"
ACTIONS = ("save", "click", "hide", "search")
SURFACES = ("", "home", "results")
QUERIES = ("red shoes", "lamp")
NEVER = 10**6
KEYS, TYPES, FEATURE, SCALE = content_features()
ROW_OF = {(int(key), int(kind)): row for row, (key, kind) in enumerate(zip(KEYS, TYPES, strict=True))}


class Row(NamedTuple):
    """An event of the log as the oracle knows it. ``batched``: it had come by the time that the batch was made."""

    item: int  # of three items or, of a search, of two queries
    action: str
    surface: str
    time: int
    batched: bool = False

    @property
    def identity(self) -> tuple:
        kind = ItemType.QUERY if self.action == "search" else ItemType.PIN
        key = string_key(QUERIES[self.item % 2]) if self.action == "search" else 100 + self.item
        outcome = NO_OUTCOME if self.action == "search" else ("save", "click").index(self.action)
        return key, int(kind), outcome, self.time


ROWS = st.builds(
    Row, st.integers(0, 2), st.sampled_from(ACTIONS), st.sampled_from(SURFACES), st.integers(1, 12), st.booleans()
)


class View:
    """A batch view in memory. Its histories pass through the codec, as those of the real one do."""

    def __init__(self, histories: dict[bytes, History | StoreError], **info: Any) -> None:
        self.manifest = make_manifest(IdKind.INT, [(1, 100, 0, "save", "", 1)])
        self.info = BatchInfo(
            **({"end_time": 10, "num_users": 1, "num_interactions": 1} | info),
            feature_space=self.manifest.feature_space,
            outcomes=self.manifest.outcomes,
            surfaces=self.manifest.surfaces,
        )
        self._histories = histories

    def get(self, user_key: bytes) -> History | None:
        history = self._histories.get(user_key)
        if isinstance(history, StoreError):
            raise history
        return None if history is None else decode_history(encode_history(history))


class Current:
    """The view that is current, which a test changes."""

    def __init__(self, view: View) -> None:
        self.view = self.next = view

    def refresh(self) -> None:
        self.view = self.next


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> ItemCatalogue:
    folder = tmp_path_factory.mktemp("catalogue")
    pins = int((TYPES == ItemType.PIN).sum())
    texts = pa.array([""] * pins)
    write_catalogue(
        folder, item_key=KEYS[:pins], item_id=pa.array(KEYS[:pins]), title=texts, categories=texts,
        feature=FEATURE[:pins], scale=SCALE[:pins],
    )  # fmt: skip
    return ItemCatalogue.open(folder)


def histories(
    catalogue: ItemCatalogue, view: View, store: MemoryEventStore | None, **options: Any
) -> tuple[UserHistories, Current]:
    current = Current(view)
    source = None if store is None else RealtimeSource(lambda: store, retry_seconds=0)
    made = UserHistories(view.manifest, catalogue, current, source, text_encoder(ENCODER), **options)  # type: ignore[arg-type]
    made.refresh()
    return made, current


def history(rows: list[Row]) -> History:
    """What a batch holds of the rows, in their order."""
    places = [ROW_OF[row.identity[:2]] for row in rows]
    columns: dict[str, list] = {
        "item_key": [row.identity[0] for row in rows],
        "item_type": [row.identity[1] for row in rows],
        "outcome": [row.identity[2] for row in rows],
        "surface": [SURFACES.index(row.surface) for row in rows],
        "timestamp": [row.time for row in rows],
    }
    arrays = {name: np.array(values, DTYPES[name]) for name, values in columns.items()}
    return History(**arrays, feature=FEATURE[places].reshape(-1, 20), scale=SCALE[places])


def event(row: Row, event_id: str, user_key: bytes = USER) -> Event:
    is_query = row.action == "search"
    key, kind = (string_key(QUERIES[row.item % 2]), ItemType.QUERY) if is_query else (100 + row.item, ItemType.PIN)
    return Event(
        event_id=event_id, user_key=user_key, item_key=key, item_type=kind, action=row.action, surface=row.surface,
        timestamp=row.time, query=QUERIES[row.item % 2] if is_query else "",
    )  # fmt: skip


def rebuilt(log: list[Row], *, start: int, until: int, limit: int, forgotten_at: int = -1) -> list[Row]:
    """The oracle: what a full rebuild of the batch from the log holds at ``until``. The log is in the order in which
    its events came."""
    kept: list[Row] = []
    seen = set()
    for row in sorted(log, key=lambda row: row.time):
        if row.action == "hide" or not max(start, forgotten_at + 1) <= row.time <= until:
            continue
        if row.identity not in seen:
            seen.add(row.identity)
            kept.append(row)
    return kept[-limit:]


def assert_equal(got: History, expected: History) -> None:
    for name in DTYPES:
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)


@settings(max_examples=300, deadline=None)
@given(
    log=st.lists(ROWS, max_size=24),
    start=st.sampled_from([None, None, 3, 6]),
    end=st.integers(4, 12),
    limit=st.sampled_from([1, 2, 4, 100]),
    until=st.integers(0, 13),
    forgotten_at=st.sampled_from([None, None, 2, 7, 12]),
    random=st.randoms(use_true_random=False),
)
def test_equals_a_full_rebuild(catalogue, log, start, end, limit, until, forgotten_at, random):
    in_batch = [row for row in log if row.batched and row.time < end]
    came_later = [row for row in log if not (row.batched and row.time < end)]
    first = start or 0
    batch = rebuilt(in_batch, start=first, until=NEVER, limit=limit)  # made before anybody asked to be forgotten
    full = len(batch) == limit
    events = [event(row, f"{number:03}") for number, row in enumerate(came_later)]
    events += [event(row, f"absorbed {number}") for number, row in enumerate(in_batch) if random.random() < 0.5]
    events += random.choices(events, k=5) if events else []
    random.shuffle(events)
    store = MemoryEventStore()
    store.append(events)
    if forgotten_at is not None:
        store.forget(USER, at=forgotten_at)

    # At the very second at which a full batch was cut, the choice of the batch stands.
    log = in_batch + [row for row in came_later if not (full and row.time == batch[0].time)]
    expected = rebuilt(
        log, start=first, until=until, limit=limit, forgotten_at=-1 if forgotten_at is None else forgotten_at
    )
    if full and until < batch[-1].time:  # a replay from before what the batch has cut: nothing older is known
        expected = [row for row in expected if row.time > batch[0].time or row in batch]

    view = View({USER: history(batch)}, end_time=end, start_time=start, max_interactions_per_user=limit)
    (found,) = histories(catalogue, view, store)[0].at_many([(USER, until)])
    assert_equal(found.history, history(expected))
    assert found.unavailable == ""
    assert (found.source == "none") == (not expected)


def served(made: UserHistories, *users: bytes, until: int = 100) -> list[UserHistory]:
    made.refresh()
    return made.at_many([(user, until) for user in users or (USER,)])


def sources(found: list[UserHistory]) -> list[tuple[str, str]]:
    return [(one.source, one.unavailable) for one in found]


def times(found: UserHistory) -> list[int]:
    return found.history.timestamp.tolist()


BATCHED = [Row(0, "save", "home", 3), Row(1, "click", "home", 5)]


def test_an_event_that_came_too_late_for_the_batch_is_served_until_a_batch_holds_it(catalogue):
    late = Row(2, "save", "home", 4)
    store = MemoryEventStore()
    store.append([event(late, "late"), event(BATCHED[1], "absorbed")])
    made, current = histories(catalogue, View({USER: history(BATCHED)}), store)
    (found,) = served(made)
    assert times(found) == [3, 4, 5]
    assert found.source == "both"
    current.next = View({USER: history(sorted([*BATCHED, late], key=lambda row: row.time))})
    (held,) = served(made)
    assert_equal(held.history, found.history)
    assert held.source == "batch"


def test_what_a_full_batch_has_cut_does_not_come_back(catalogue):
    store = MemoryEventStore()
    store.append([event(Row(2, "save", "home", time), f"{time}") for time in (2, 3, 4, 11)])
    made, _ = histories(catalogue, View({USER: history(BATCHED)}, max_interactions_per_user=2), store)
    assert times(served(made)[0]) == [5, 11]
    assert times(served(made, until=10)[0]) == [4, 5]
    made, _ = histories(catalogue, View({USER: history(BATCHED)}, max_interactions_per_user=99), store)
    assert times(served(made)[0]) == [2, 3, 3, 4, 5, 11]


def test_events_from_before_the_window_are_not_read(catalogue):
    store = MemoryEventStore()
    store.append([event(Row(2, "save", "home", time), f"{time}") for time in (1, 2, 11)])
    made, _ = histories(catalogue, View({USER: history(BATCHED)}, start_time=2), store)
    assert times(served(made)[0]) == [2, 3, 5, 11]


def test_the_newest_events_are_served_where_there_are_more_than_are_read(catalogue, monkeypatch):
    """Absorbed events that nobody has removed yet are among them, and crowd out nothing that is newer."""
    monkeypatch.setattr(user_histories, "MAX_REALTIME_EVENTS", 4)
    recorded = Recorded()
    store = MemoryEventStore()
    store.append([event(row, f"absorbed {row.time}") for row in BATCHED])
    store.append([event(Row(2, "save", "home", time), f"{time}") for time in range(6, 12)])
    view = View({USER: history(BATCHED)}, max_interactions_per_user=3)
    made, _ = histories(catalogue, view, store, metrics=recorded)
    assert times(served(made)[0]) == [9, 10, 11]
    assert recorded.total(REALTIME_READS_CUT) == 1
    assert [len(spans) for spans in store.reads] == [1]
    assert store.reads[0][0].limit == 4


def test_the_store_is_asked_once_for_all_users_of_a_batch(catalogue):
    store = MemoryEventStore()
    store.append([event(Row(2, "save", "home", 11), "a"), event(Row(2, "save", "home", 12), "b", OTHER)])
    made, _ = histories(catalogue, View({USER: history(BATCHED)}), store)
    found = served(made, USER, OTHER, b"nobody", USER)
    assert [times(one) for one in found] == [[3, 5, 11], [12], [], [3, 5, 11]]
    assert sources(found) == [("both", ""), ("realtime", ""), ("none", ""), ("both", "")]
    assert [len(spans) for spans in store.reads] == [4]


def test_events_of_one_second_are_in_the_order_of_their_ids_whatever_the_store_says(catalogue):
    class Unordered(MemoryEventStore):
        def _read(self, span: Span) -> UserEvents:
            return UserEvents(super()._read(span).events[::-1])

    store = Unordered()
    store.append([event(Row(item, "save", "home", 11), event_id) for item, event_id in ((2, "a"), (0, "c"), (1, "b"))])
    made, _ = histories(catalogue, View({}), store)
    assert served(made)[0].history.item_key.tolist() == [102, 101, 100]


@pytest.mark.parametrize("until", [4, 100])
def test_a_forgotten_user_is_gone_from_every_part_and_from_the_past(catalogue, until):
    store = MemoryEventStore()
    made, current = histories(catalogue, View({USER: history(BATCHED), OTHER: history(BATCHED)}), store)
    store.append([event(Row(2, "save", "home", 11), "a")])
    store.forget(USER, at=11)
    store.append([event(Row(2, "save", "home", 6), "late"), event(Row(2, "save", "home", 11), "a")])
    found = served(made, USER, OTHER, until=until)
    assert sources(found) == [("none", ""), ("batch", "")]
    store.append([event(Row(2, "save", "home", 12), "new")])
    assert times(served(made, until=until)[0]) == ([12] if until == 100 else [])
    current.next = View({USER: history([*BATCHED, Row(2, "save", "home", 11)])})  # made of a log that still has it
    assert times(served(made, until=until)[0]) == ([12] if until == 100 else [])


def test_a_user_who_was_forgotten_stays_so_while_the_store_is_down(catalogue):
    store = MemoryEventStore()
    made, _ = histories(catalogue, View({USER: history(BATCHED), OTHER: history(BATCHED)}), store)
    store.forget(USER, at=11)
    assert sources(served(made)) == [("none", "")]
    store.down = True
    assert sources(served(made, USER, OTHER)) == [("none", "realtime"), ("batch", "realtime")]


def test_neither_part_is_needed_to_answer(catalogue, caplog):
    recorded = Recorded()
    store = MemoryEventStore()
    view = View({USER: history(BATCHED), OTHER: StoreError("the block is corrupt")})
    now = [0.0]
    made, _ = histories(catalogue, view, store, metrics=recorded, monotonic=lambda: now[0])
    store.append([event(Row(2, "save", "home", 11), "a", user) for user in (USER, OTHER)])
    users = (USER, OTHER, b"nobody")
    assert sources(served(made, *users)) == [("both", ""), ("realtime", "batch"), ("none", "")]
    store.down = True
    found = served(made, *users)
    assert sources(found) == [("batch", "realtime"), ("none", "both"), ("none", "realtime")]
    assert [times(one) for one in found] == [[3, 5], [], []]
    assert {part: recorded.total(HISTORIES_DEGRADED, part) for part in ("batch", "realtime", "both")} == {
        "batch": 1, "realtime": 2, "both": 1,
    }  # fmt: skip
    assert recorded.total(HISTORIES, "none") == 3
    store.down = False
    assert sources(served(made, *users)) == [("both", ""), ("realtime", "batch"), ("none", "")]
    lines = [record for record in caplog.records if "the block is corrupt" in record.message]
    assert len(lines) == 1  # of three failures within a minute
    with caplog.at_level(logging.ERROR):
        now[0] = 61.0
        served(made, OTHER)
    assert "3 histories were read without their batch part" in caplog.text


def test_a_batch_history_of_another_width_is_not_used(catalogue):
    wide = replace(history(BATCHED), feature=np.zeros((2, 7), np.int8))
    made, _ = histories(catalogue, View({USER: wide}), None)
    assert sources(served(made)) == [("none", "batch")]


def test_without_a_store_none_is_missing(catalogue):
    made, _ = histories(catalogue, View({USER: history(BATCHED)}), None)
    assert sources(served(made, USER, OTHER)) == [("batch", ""), ("none", "")]


def test_items_and_actions_that_the_release_does_not_know_are_counted(catalogue):
    """Where the user's batch history holds the item, its content is known from there."""
    recorded = Recorded()
    store = MemoryEventStore()
    pin = {"user_key": USER, "item_type": ItemType.PIN, "action": "save", "surface": "home"}
    store.append([
        Event(event_id="a", item_key=9_999, timestamp=11, **pin),
        Event(event_id="b", item_key=8_888, timestamp=12, **pin),
        Event(event_id="c", item_key=101, timestamp=13, **(pin | {"action": "hide"})),
        Event(event_id="d", item_key=101, timestamp=14, **pin),
        event(BATCHED[0], "absorbed"),
    ])  # fmt: skip
    batch = history(BATCHED)
    newer = replace(batch, item_key=np.array([100, 9_999]))
    made, _ = histories(catalogue, View({USER: newer}), store, metrics=recorded)
    (found,) = served(made)
    assert found.history.item_key.tolist() == [100, 9_999, 9_999, 101]
    np.testing.assert_array_equal(found.history.feature[2], newer.feature[1])
    assert found.history.scale[2] == newer.scale[1]
    assert {use: recorded.total(REALTIME_EVENTS, use) for use in EVENT_USES} == {
        "served": 2, "repeated": 1, "unknown_item": 1, "no_outcome": 1,
    }  # fmt: skip


def test_the_batch_that_is_current_is_followed(catalogue):
    made, current = histories(catalogue, View({USER: history(BATCHED)}, end_time=10), None)
    served(made)
    current.next = View({USER: history([*BATCHED, Row(2, "save", "home", 15)])}, end_time=20)
    assert times(made.at_many([(USER, 100)])[0]) == [3, 5]  # not before the next batch of requests
    assert times(served(made)[0]) == [3, 5, 15]


def test_a_view_of_another_release_is_refused():
    view = View({})
    check_view(view.manifest, view)  # type: ignore[arg-type]
    with pytest.raises(ReleaseError, match="the signals' outcomes is"):
        check_view(replace(view.manifest, outcomes=("click", "save")), view)  # type: ignore[arg-type]
