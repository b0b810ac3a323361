"""The ingest stage on a real store: the stored events, and every refusal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.signals import event_fuzz
from pinrec_core.errors import ConfigError, DataError, InvalidRequestError, PinRecError, StoreError
from pinrec_core.history import ItemType
from pinrec_core.ids import IdKind, string_key, user_store_key
from pinrec_core.stages.base import StageParameters, run_batch
from pinrec_core.stages.metrics import EVENT_AGE_SECONDS, EVENTS_STORED
from signal_service.ingest_stage import SignalIngestStage
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Durability, Span
from tests.recorded import Recorded
from tests.signal_service.builders import EVENTS, make_manifest

NOW = 1_000_000


def open_stage(folder: Path, user_ids: IdKind = IdKind.INT, **changes: object) -> SignalIngestStage:
    folder.mkdir()
    manifest = make_manifest(user_ids, EVENTS, **changes)
    return SignalIngestStage(manifest, RocksDbEventStore.open_primary(folder / "realtime"), clock=lambda: float(NOW))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[SignalIngestStage]:
    opened = open_stage(tmp_path / "signals")
    yield opened
    opened.close()


def events(*rows: tuple, ids: type = np.int64) -> dict[str, np.ndarray]:
    """A request from rows of (event id, user, item, action, timestamp, surface, query)."""
    names = ("event_id", "event_user_id", "event_item_id", "event_action", "event_timestamp", "event_surface",
             "event_query")  # fmt: skip
    kinds = (np.object_, ids, ids, np.object_, np.int64, np.object_, np.object_)
    columns = zip(*rows, strict=True)
    return {
        name: np.array([v.encode() if isinstance(v, str) else v for v in column], kind)
        for name, kind, column in zip(names, kinds, columns, strict=True)
    }


PIN = ("e1", 7, 101, "save", NOW, "home", "")
SEARCH = ("e2", 7, 0, "search", NOW - 5, "results", " red shoes ")


def stored(stage: SignalIngestStage, user: int | str = 7, kind: IdKind = IdKind.INT) -> list:
    span = Span(user_key=user_store_key(user, kind), since=0, until=10**12, limit=10**6)
    return list(stage._store.read([span])[0].events)


def test_events_are_stored_as_they_were(stage):
    (answer,) = run_batch(stage, [events(PIN, SEARCH)])
    assert answer["stored"].tolist() == [2]
    assert answer["stored"].dtype == np.int32
    search, pin = stored(stage)
    assert (pin.item_key, pin.item_type, pin.action, pin.surface, pin.timestamp, pin.query) == (
        101, ItemType.PIN, "save", "home", NOW, "",
    )  # fmt: skip
    assert (search.item_key, search.item_type, search.query) == (string_key("red shoes"), ItemType.QUERY, "red shoes")


def test_a_repeated_call_is_one_event(stage):
    for _ in range(2):
        run_batch(stage, [events(PIN), events(PIN)])
    assert len(stored(stage)) == 1


def test_ignored_actions_are_valid_log(stage):
    (answer,) = run_batch(stage, [events(("e", 7, 101, "hide", NOW, "", ""))])
    assert answer["stored"].tolist() == [1]


def test_string_ids(tmp_path):
    stage = open_stage(tmp_path / "signals", IdKind.STRING, item_id_kind=IdKind.STRING)
    rows = [("e1", "böb", "pin-1", "save", NOW, "", ""), ("e2", "böb", "", "search", NOW, "", "lamp")]
    (answer,) = run_batch(stage, [events(*rows, ids=np.object_)])
    assert answer["stored"].tolist() == [2]
    assert [e.item_key for e in stored(stage, "böb", IdKind.STRING)] == [string_key("pin-1"), string_key("lamp")]
    for changed, message in [
        (("e", "", "p", "save", NOW, "", ""), "event_user_id[0]='': expected a string that is not empty"),
        (("e", "u" * 1025, "p", "save", NOW, "", ""), "event_user_id[0] has 1025 bytes: expected at most 1024"),
        (("e", "u", "", "save", NOW, "", ""), "event_item_id[0]='': expected the id of an item"),
        (("e", "u", "p" * 1025, "save", NOW, "", ""), "event_item_id[0] has 1025 bytes: expected at most 1024"),
        (("e", "u", "p", "search", NOW, "", "lamp"), "event_item_id[0]='p': expected '', a query has no item"),
    ]:
        (answer,) = run_batch(stage, [events(changed, ids=np.object_)])
        assert str(answer) == message
    stage.close()


REFUSED = {
    "event_id[1] has 0 bytes: expected 1 to 256": ("", *PIN[1:]),
    "event_id[1] has 300 bytes: expected 1 to 256": ("x" * 300, *PIN[1:]),
    "event_action[1]='lik': expected one of ['save', 'click', 'search', 'hide']": (*PIN[:3], "lik", *PIN[4:]),
    "event_timestamp[1]=0: expected Unix seconds, above 0": (*PIN[:4], 0, *PIN[5:]),
    "event_timestamp[1]=1000301: expected Unix seconds, above 0 and at most 1000300": (*PIN[:4], NOW + 301, *PIN[5:]),
    "event_surface[1]='hom': expected one of ['', 'home', 'results']": (*PIN[:5], "hom", ""),
    "event_query[1]='x': expected '', this action is on an item": (*PIN[:6], "x"),
    "event_query[1]='': expected the text of the query": (*SEARCH[:6], "  "),
    "event_query[1] has 5000 bytes: expected at most 4096": (*SEARCH[:6], "x" * 5000),
    "event_item_id[1]=101: expected 0, a query has no item": (*SEARCH[:2], 101, *SEARCH[3:]),
    "event_action[1]=b'\\xff': expected UTF-8 text": (*PIN[:3], b"\xff", *PIN[4:]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_one_bad_event_refuses_its_request_only(stage, message):
    others = events(("other", 8, 102, "click", NOW, "", ""))
    bad, good = run_batch(stage, [events(PIN, REFUSED[message]), others])
    assert isinstance(bad, InvalidRequestError)
    assert str(bad).startswith(message)
    assert good["stored"].tolist() == [1]
    assert stored(stage) == []
    assert len(stored(stage, 8)) == 1


def test_shapes(stage):
    good = events(PIN, SEARCH)
    for changes, message in [
        ({"event_action": None}, "event_action is missing: expected one value per event"),
        ({"event_action": good["event_action"][:1]}, "event_action has shape [1]: expected [2], as event_id has"),
        ({"event_id": good["event_id"][None]}, "event_id has shape [1, 2]: expected [Q]"),
        ({name: values[:0] for name, values in good.items()}, "event_id has 0 events: expected 1 to 10000"),
    ]:
        tensors = {name: values for name, values in (good | changes).items() if values is not None}
        (answer,) = run_batch(stage, [tensors])
        assert isinstance(answer, InvalidRequestError)
        assert str(answer) == message


def test_a_store_that_fails_is_unavailable(stage):
    stage._store.close()
    answers = run_batch(stage, [events(PIN), events(SEARCH)])
    assert all(isinstance(answer, StoreError) for answer in answers)
    assert all(isinstance(answer, PinRecError) and answer.code == "UNAVAILABLE" for answer in answers)


def test_one_writer_at_a_time(tmp_path, stage):
    with pytest.raises(StoreError, match="cannot be opened for writing"):
        RocksDbEventStore.open_primary(tmp_path / "signals" / "realtime")


def test_opened_by_its_parameters(tmp_path):
    make_manifest(IdKind.INT, EVENTS).save(tmp_path)
    stage = SignalIngestStage.open(
        StageParameters(release=None, signals=tmp_path, realtime=tmp_path / "realtime", device="cpu", threads=1)
    )
    (answer,) = run_batch(stage, [events(PIN)])
    assert answer["stored"].tolist() == [1]
    assert [e.item_key for e in stored(stage)] == [101]
    stage.close()


def test_an_unknown_durability_is_refused(tmp_path):
    parameters = StageParameters(
        release=None, signals=tmp_path, realtime=tmp_path / "realtime", device="cpu", threads=1, durability="never"
    )
    with pytest.raises(ConfigError, match="durability='never': expected one of process, disk"):
        SignalIngestStage.open(parameters)


def test_a_stage_that_nobody_closes_lets_go_of_its_store(tmp_path):
    """Triton's process of a stage drops it and closes nothing; the thread that sweeps must not keep it."""
    make_manifest(IdKind.INT, EVENTS).save(tmp_path)
    parameters = StageParameters(
        release=None, signals=tmp_path, realtime=tmp_path / "realtime", device="cpu", threads=1, durability="disk"
    )
    stage = SignalIngestStage.open(parameters)
    del stage
    SignalIngestStage.open(parameters).close()


def test_events_that_arrive_together_are_written_together(tmp_path):
    """One write, and so one fsync, for all requests of a batch; requests to forget share it by user."""
    written: list[int] = []
    forgotten: list[tuple[bytes, int]] = []

    class Counting(RocksDbEventStore):
        def append(self, events):
            written.append(len(events))
            super().append(events)

        def forget(self, user_key, *, at):
            forgotten.append((user_key, at))
            super().forget(user_key, at=at)

    with RocksDbEventStore.open_primary(tmp_path / "realtime", durability=Durability.DISK) as store:
        store.__class__ = Counting
        stage = SignalIngestStage(make_manifest(IdKind.INT, EVENTS), store, clock=lambda: float(NOW))
        run_batch(
            stage, [events(PIN, SEARCH), events(FORGET), events(("e3", 8, 102, "click", NOW, "", "")), events(FORGET)]
        )
    assert written == [3]
    assert forgotten == [(user_store_key(7, IdKind.INT), NOW - 10)]


def test_needs_a_store(tmp_path):
    with pytest.raises(ConfigError, match="realtime=None"):
        SignalIngestStage.open(StageParameters(release=None, signals=tmp_path, realtime=None, device="cpu", threads=1))


FORGET = ("f1", 7, 0, "forget_user", NOW - 10, "", "")


def test_a_user_is_forgotten_on_the_way_of_events(stage):
    """Before, in the middle of and behind the events of a batch alike: what is of a later time is kept."""
    early, at_once, later = ((f"e{t}", 7, 101, "save", t, "home", "") for t in (NOW - 11, NOW - 10, NOW - 9))
    run_batch(stage, [events(early, ("x", 8, 101, "save", NOW - 11, "home", ""))])
    answers = run_batch(stage, [events(at_once, later), events(early, FORGET, at_once), events(later, early)])
    assert [answer["stored"].tolist() for answer in answers] == [[2], [3], [2]]
    assert [event.timestamp for event in stored(stage)] == [NOW - 9]
    (answer,) = run_batch(stage, [events(early, at_once, later)])  # late and repeated events: taken, and not seen
    assert answer["stored"].tolist() == [3]
    assert [event.timestamp for event in stored(stage)] == [NOW - 9]
    assert len(stored(stage, 8)) == 1
    run_batch(stage, [events((*FORGET[:4], NOW, "", ""), FORGET)])  # the latest of several counts
    assert stored(stage) == []
    assert list(stage._store.forgotten()) == [(user_store_key(7, IdKind.INT), NOW)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ((*FORGET[:2], 101, *FORGET[3:]), "event_item_id[0]=101: expected 0, to forget a user is no action on an item"),
        ((*FORGET[:6], "lamp"), "event_query[0]='lamp': expected '', to forget a user is no search"),
        ((*FORGET[:4], NOW + 301, "", ""), "event_timestamp[0]=1000301: expected Unix seconds"),
    ],
)
def test_a_malformed_wish_to_be_forgotten_forgets_nobody(stage, changed, message):
    run_batch(stage, [events(PIN)])
    (answer,) = run_batch(stage, [events(changed)])
    assert isinstance(answer, InvalidRequestError)
    assert str(answer).startswith(message)
    assert len(stored(stage)) == 1
    assert list(stage._store.forgotten()) == []


def test_one_call_forgets_a_few_users(stage):
    """Each is an fsync, for which all others wait."""
    wishes = [(f"f{user}", user, *FORGET[2:]) for user in range(33)]
    few, many = run_batch(stage, [events(*wishes[:32]), events(*wishes)])
    assert few["stored"].tolist() == [32]
    assert str(many) == "event_action has 33 users to forget: expected at most 32"


def test_how_late_an_event_may_be(tmp_path):
    manifest = make_manifest(IdKind.INT, EVENTS)
    with RocksDbEventStore.open_primary(tmp_path / "realtime") as store:
        stage = SignalIngestStage(manifest, store, clock=lambda: float(NOW), max_lateness=100)
        late, too_late, forget = run_batch(
            stage,
            [
                events((*PIN[:4], NOW - 100, "home", "")),
                events((*PIN[:4], NOW - 101, "home", "")),
                events(("f", 8, 0, "forget_user", 1, "", "")),  # a user can be forgotten as of any time
            ],
        )
        assert late["stored"].tolist() == forget["stored"].tolist() == [1]
        assert (
            str(too_late)
            == f"event_timestamp[0]={NOW - 101}: expected at least {NOW - 100}, events may be 100 s late here"
        )
        assert [event.timestamp for event in stored(stage)] == [NOW - 100]


@pytest.mark.parametrize("kinds", IdKind)
def test_malformed_events_are_answered_with_typed_errors_and_store_nothing(tmp_path, kinds):
    result = event_fuzz.run(400, location=tmp_path / "realtime", seed=5, kinds=kinds)
    assert result.findings == []
    assert result.malformed > 200
    assert {"event_id", "event_action", "event_timestamp", "event_surface", "event_query", "request"} <= set(
        result.errors
    )


def test_ids_of_the_other_kind(stage):
    good = events(PIN)
    for name, kind in (("event_user_id", "user"), ("event_item_id", "item")):
        (answer,) = run_batch(stage, [good | {name: np.array([b"x"], np.object_)}])
        assert isinstance(answer, InvalidRequestError)
        assert str(answer) == f"{name}[0]=b'x': expected an integer, the {kind} ids of this dataset are int64"


def test_the_name_is_reserved():
    with pytest.raises(DataError, match="ignored_actions='forget_user'"):
        make_manifest(IdKind.INT, EVENTS, ignored_actions=("forget_user",))


def test_what_it_measures(tmp_path):
    recorded = Recorded()
    with RocksDbEventStore.open_primary(tmp_path / "realtime") as store:
        manifest = make_manifest(IdKind.INT, EVENTS)
        stage = SignalIngestStage(manifest, store, clock=lambda: float(NOW), metrics=recorded)
        run_batch(stage, [events(PIN, SEARCH), events(("e3", 7, 101, "save", NOW + 60, "home", ""))])
    assert recorded.total(EVENTS_STORED) == 3
    assert recorded.of(EVENT_AGE_SECONDS) == [0, 5, 0]  # the last is dated ahead
