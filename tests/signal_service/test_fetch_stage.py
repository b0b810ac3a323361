"""The fetch stage on real signals: histories, defaults, searches, real-time events and every refusal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pinrec_core.config.sections import Variant
from pinrec_core.contract import SIGNAL_FETCH, SOURCES
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import ConfigError, InvalidRequestError, ReleaseError
from pinrec_core.generation.draws import seed_of
from pinrec_core.history import NO_OUTCOME, ItemType
from pinrec_core.ids import IdKind, string_key
from pinrec_core.representations.quantization import dequantize
from pinrec_core.representations.text_encoder import text_encoder
from pinrec_core.stages.base import StageParameters, run_batch
from pinrec_core.stages.metrics import (
    BATCH_END,
    CATCH_UP_SECONDS,
    HISTORIES,
    HISTORY_AGE_SECONDS,
    HISTORY_INTERACTIONS,
    REALTIME_UP,
)
from pinrec_core.stages.packing import decode_request
from signal_service.batch_job import run_batch_job
from signal_service.batch_view import BatchView
from signal_service.event_history import EventHistoryBuilder
from signal_service.fetch_stage import SignalFetchStage
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Event
from signal_service.view_writing import build_batch_view
from tests.recorded import Recorded
from tests.signal_service.builders import ENCODER, EVENTS, expected_sequences, random_log, write_prepared
from tests.signal_service.fetching import NOW, NUMPY, fetch, make_stage, request, unpacked

pytestmark = pytest.mark.spark


def save_as_string_users(signals: Path) -> None:
    """Change the manifest of the signals to string ids of users."""
    replace(DatasetManifest.load(signals), user_id_kind=IdKind.STRING).save(signals)


@pytest.fixture
def stage(signals: Path, catalogue: ItemCatalogue) -> SignalFetchStage:
    return make_stage(signals, catalogue)


def test_defaults(stage):
    answer = fetch(stage)
    expected = expected_sequences(EVENTS, end=1050)[7]
    assert answer["history_item_key"].tolist() == [row[0] for row in expected]
    assert answer["history_timestamp"].tolist() == [row[4] for row in expected]
    assert answer["resolved_surface"].tolist() == [0]
    assert answer["resolved_time"].tolist() == [NOW]
    assert answer["resolved_budget"].tolist() == [0.25, 0.75]
    assert answer["resolved_num_items"].tolist() == [10]
    assert answer["resolved_seed"].tolist() == [seed_of(7, NOW)]
    assert answer["seen_item_key"].tolist() == []


def test_what_is_drawn_without_a_seed_differs_by_user_and_by_time_and_is_the_same_again(stage):
    asked = [(7, 1_040), (7, 1_041), (8, 1_040), (7, 1_040)]
    answers = run_batch(stage, [request(user=user, request_time=time) for user, time in asked])
    *seeds, again = [unpacked(answer)["resolved_seed"].item() for answer in answers]
    assert len(set(seeds)) == 3
    assert again == seeds[0]


@pytest.mark.parametrize("user", [7, 123_456_789])
@pytest.mark.parametrize("fields", [{}, {"query": "lamp", "exclude_seen": True}])
def test_answers_keep_the_contract(stage, user, fields):
    (answer,) = run_batch(stage, [request(user=user, **fields)])
    assert set(answer) == {spec.name for spec in SIGNAL_FETCH.outputs}
    for spec in SIGNAL_FETCH.outputs:
        values = answer[spec.name]
        assert values.dtype == NUMPY[spec.dtype], spec.name
        assert values.ndim == len(spec.dims), spec.name
    packed = decode_request(answer["packed_request"])
    assert packed.history.feature.shape == (len(answer["history_item_key"]), 20)
    assert packed.budget.shape == (2,)


def test_an_unknown_user_has_no_history(stage):
    answer = fetch(stage, user=123_456_789, exclude_seen=True)
    assert answer["history_feature"].shape == (0, 20)
    assert answer["seen_item_key"].tolist() == []


def test_what_is_sent_is_resolved(stage):
    answer = fetch(stage, num_items=50, surface="results", request_time=1_040, seed=9, budget=[0.9, 0.1])
    assert answer["resolved_num_items"].tolist() == [50]
    assert answer["resolved_surface"].tolist() == [2]
    assert answer["resolved_time"].tolist() == [1_040]
    assert answer["resolved_seed"].tolist() == [9]
    np.testing.assert_allclose(answer["resolved_budget"], [0.9, 0.1], rtol=1e-6)
    assert answer["history_timestamp"].max() <= 1_040
    expected = [row for row in expected_sequences(EVENTS, end=1050)[7] if row[4] <= 1_040]
    assert answer["history_item_key"].tolist() == [row[0] for row in expected]


def test_a_budget_by_name(stage):
    by_name = fetch(stage, budget=[0.9, 0.1], budget_outcome=["click", "save"])
    np.testing.assert_allclose(by_name["resolved_budget"], [0.1, 0.9], rtol=1e-6)
    np.testing.assert_array_equal(fetch(stage, budget=[1.0], budget_outcome=["click"])["resolved_budget"], [0, 1])


@pytest.mark.parametrize("variant", [Variant.UC, Variant.MT])
def test_without_outcome_conditioning_there_is_one_weight(signals, catalogue, variant):
    stage = make_stage(signals, catalogue, variant=variant)
    assert fetch(stage)["resolved_budget"].tolist() == [1.0]
    with pytest.raises(InvalidRequestError, match=r"budget was sent: .*not outcome-conditioned"):
        fetch(stage, budget=[0.5, 0.5])


@pytest.mark.parametrize("max_history", [1, 5])
def test_cut_to_the_newest(signals, catalogue, max_history):
    stage = make_stage(signals, catalogue, max_history=max_history)
    expected = expected_sequences(EVENTS, end=1050)[7]
    answer = fetch(stage, exclude_seen=True)
    assert answer["history_item_key"].tolist() == [row[0] for row in expected[-max_history:]]
    assert answer["seen_item_key"].tolist() == sorted({row[0] for row in expected if row[1] == ItemType.PIN})
    searched = fetch(stage, query="lamp")["history_item_key"].tolist()
    assert searched == [row[0] for row in expected[len(expected) - max_history + 1 :]] + [string_key("lamp")]


def test_a_search_ends_in_its_query(stage):
    answer = fetch(stage, query=" red shoes ", surface="home")
    assert answer["history_item_type"][-1] == ItemType.QUERY
    assert answer["history_item_key"][-1] == string_key("red shoes")
    assert answer["history_surface"][-1] == 1
    assert answer["history_timestamp"][-1] == NOW
    vector = dequantize(answer["history_feature"][-1:], answer["history_scale"][-1:])[0]
    expected = text_encoder(ENCODER).encode_one("red shoes")
    np.testing.assert_allclose(vector[:16], expected, atol=np.abs(expected).max() / 127)  # one step of INT8
    assert not vector[16:].any()
    stored = answer["history_item_key"][:-1] == string_key("red shoes")
    assert stored.any()  # the query is in the log as well, and must have the same features there
    np.testing.assert_array_equal(answer["history_feature"][:-1][stored][0], answer["history_feature"][-1])


def test_a_search_by_vector(stage):
    vector = np.random.default_rng(0).normal(size=20).astype(np.float32)
    answer = fetch(stage, query_embedding=vector)
    assert answer["history_item_key"][-1] == 0
    assert answer["history_item_type"][-1] == ItemType.QUERY
    made = dequantize(answer["history_feature"][-1:], answer["history_scale"][-1:])[0]
    np.testing.assert_allclose(made, vector, atol=np.abs(vector).max() / 127)


def test_real_time_events_change_the_next_answer(signals, catalogue, tmp_path):
    stage = make_stage(signals, catalogue, realtime=tmp_path / "realtime")
    before = fetch(stage)
    assert before["history_item_key"].tolist() == fetch(make_stage(signals, catalogue))["history_item_key"].tolist()
    stage._histories._realtime._retry_at = 0  # so that the store, which is created next, is opened at once
    pin = {"item_type": ItemType.PIN, "surface": "home", "user_key": (7 + (1 << 63)).to_bytes(8, "big")}
    key, _, outcome, _, time = next(row for row in expected_sequences(EVENTS, end=1050)[7] if row[1] == ItemType.PIN)
    action = ("save", "click")[outcome]
    held_by_the_batch = Event(event_id="held", item_key=key, action=action, timestamp=time, **pin)
    with RocksDbEventStore.open_primary(tmp_path / "realtime") as store:
        store.append(
            [
                Event(event_id="new", item_key=101, action="save", timestamp=1_070, **pin),
                Event(event_id="late", item_key=102, action="click", timestamp=1_060, **pin),
                Event(event_id="late for the batch", item_key=103, action="save", timestamp=1_049, **pin),
                held_by_the_batch,
                Event(event_id="after the request", item_key=104, action="save", timestamp=NOW + 1, **pin),
                Event(event_id="unknown item", item_key=9_999, action="save", timestamp=1_071, **pin),
                Event(event_id="unknown action", item_key=105, action="hide", timestamp=1_072, **pin),
                Event(event_id="query", item_key=string_key("lamp"), action="search", timestamp=1_075, query="lamp",
                      **(pin | {"item_type": ItemType.QUERY})),
                Event(event_id="unknown surface", item_key=106, action="save", timestamp=1_080,
                      **(pin | {"surface": "watch"})),
            ]
        )  # fmt: skip
        answer = fetch(stage)
    new = slice(len(before["history_item_key"]), None)
    assert answer["history_item_key"][: new.start].tolist() == before["history_item_key"].tolist()
    assert answer["history_item_key"][new].tolist() == [103, 102, 101, string_key("lamp"), 106]
    assert answer["history_item_type"][new].tolist() == [0, 0, 0, 1, 0]
    assert answer["history_surface"][new].tolist() == [1, 1, 1, 1, 0]
    row = catalogue.rows_of(np.array([102]))[0]
    np.testing.assert_array_equal(answer["history_feature"][new][1], catalogue.feature[row])


def test_outcomes_of_events_follow_the_release(catalogue, manifest):
    builder = EventHistoryBuilder(manifest, catalogue, text_encoder(ENCODER))
    pin = {"user_key": b"u", "item_type": ItemType.PIN, "surface": "", "timestamp": 1, "item_key": 101}
    events = [
        Event(event_id="a", action="click", **pin),
        Event(event_id="b", action="save", **pin),
        Event(event_id="c", action="search", query="lamp", **(pin | {"item_type": ItemType.QUERY})),
        Event(event_id="d", action="find", query="lamp", **(pin | {"item_type": ItemType.QUERY})),
    ]
    assert builder.build(events).outcome.tolist() == [1, 0, NO_OUTCOME]
    assert len(builder.build([])) == 0


REFUSED = {
    "user_id is missing: expected one user": {"user_id": None},
    "user_id has shape [2]: expected [1], one user per request": {"user_id": np.array([1, 2])},
    "user_id='7': expected an integer": {"user_id": np.array([b"7"], np.object_)},
    "num_items=0: expected 1 to 50": {"num_items": 0},
    "num_items=51: expected 1 to 50": {"num_items": 51},
    "num_items has shape [2]: expected [1]": {"num_items": [1, 2]},
    "surface='hom': expected one of ['', 'home', 'results']": {"surface": "hom"},
    "surface=b'\\xff': expected UTF-8 text": {"surface": np.array([b"\xff"], np.object_)},
    "budget has 3 weights: expected 2, one for each of ['save', 'click']": {"budget": [0.2, 0.3, 0.5]},
    "budget has shape [1, 2]: expected one weight per outcome": {"budget": np.array([[0.5, 0.5]])},
    "budget[1]=nan: expected a finite weight, at least 0": {"budget": [1.0, float("nan")]},
    "budget[0]=inf: expected a finite weight": {"budget": [float("inf"), 0.0]},
    "budget[0]=-0.5: expected a finite weight, at least 0": {"budget": [-0.5, 1.5]},
    "budget sums to 0.9: expected 1 (within 0.002)": {"budget": [0.5, 0.4]},
    "budget sums to 0: expected 1": {"budget": [0.0, 0.0]},
    "budget_outcome was sent without budget": {"budget_outcome": ["save", "click"]},
    "budget_outcome has shape [1]: expected [2]": {"budget": [0.5, 0.5], "budget_outcome": ["save"]},
    "budget_outcome[1]='lik': expected one of": {"budget": [0.5, 0.5], "budget_outcome": ["save", "lik"]},
    "budget_outcome[1]='save': expected each outcome once": {"budget": [0.5, 0.5], "budget_outcome": ["save"] * 2},
    "query and query_embedding were both sent": {"query": "lamp", "query_embedding": [0.0] * 20},
    "query='': expected a text that is not empty": {"query": "  "},
    "query_embedding has shape [3]: expected [20]": {"query_embedding": [0.0] * 3},
    "query_embedding[4]=nan: expected a finite number": {"query_embedding": [0.0] * 4 + [float("nan")] + [0.0] * 15},
    "request_time=0: expected Unix seconds, above 0": {"request_time": 0},
    "request_time=1700000000000000: expected": {"request_time": 1_700_000_000_000_000},
    "seed=-1: expected a number of at least 0": {"seed": -1},
}


@pytest.mark.parametrize("message", REFUSED)
def test_refusals_name_field_value_and_expectation(stage, message):
    fields = dict(REFUSED[message])
    tensors = request()
    if "user_id" in fields:
        user = fields.pop("user_id")
        tensors = {} if user is None else {"user_id": user}
    tensors |= {k: v for k, v in request(**fields).items() if k != "user_id"}
    good = request(user=42, query="lamp", budget=[0.5, 0.5])
    answers = run_batch(stage, [good, tensors, good])
    assert isinstance(answers[1], InvalidRequestError)
    assert message in str(answers[1])
    alone = run_batch(stage, [good])[0]
    for answer in (answers[0], answers[2]):
        for name, values in alone.items():
            np.testing.assert_array_equal(answer[name], values)


def test_a_release_of_other_data_is_refused(signals, catalogue):
    for changes in (
        {"feature_space": "hashed_ngram:16+vector:0"},
        {"outcomes": ("click", "save")},
        {"surfaces": ("", "results", "home")},
        {"item_id_kind": "string"},
        {"user_id_kind": "string"},
    ):
        with pytest.raises(ReleaseError, match=f"the signals' {next(iter(changes))} is"):
            make_stage(signals, catalogue, **changes)


def test_a_view_of_an_older_vocabulary_is_refused(signals, catalogue):
    view = BatchView.open(signals)
    view.close()
    (signals / "batch" / "batch.json").write_text(
        (signals / "batch" / "batch.json").read_text().replace('"results"', '"other"')
    )
    with pytest.raises(ReleaseError, match="the batch view's surfaces"):
        make_stage(signals, catalogue)


def test_without_a_release(tmp_path):
    with pytest.raises(ConfigError, match="release=None"):
        SignalFetchStage.open(StageParameters(release=None, signals=tmp_path, realtime=None, device="cpu", threads=1))


def test_string_users(tmp_path, spark_up, catalogue):
    events = random_log(["ann", "böb"], 40)
    folder = write_prepared(tmp_path / "prepared", events, user_ids=IdKind.STRING)
    run_batch_job(folder)
    build_batch_view(folder / "signals")
    stage = make_stage(folder / "signals", catalogue)
    answers = run_batch(
        stage, [{"user_id": np.array([name], np.object_)} for name in ("böb".encode(), b"nobody", b"", b"\xff")]
    )
    assert answers[0]["history_item_key"].tolist() == [row[0] for row in expected_sequences(events)["böb"]]
    assert len(answers[1]["history_item_key"]) == 0
    assert str(answers[2]) == "user_id='': expected a string that is not empty"
    assert str(answers[3]) == "user_id=b'\\xff': expected UTF-8 text"
    (answer,) = run_batch(stage, [{"user_id": np.array([7])}])
    assert str(answer) == "user_id=7: expected a string, this dataset's user ids are strings"


def test_a_string_id_that_the_real_time_store_cannot_hold_is_refused(signals, catalogue, tmp_path):
    """An id of the largest size is served, here as an unknown user. The size is in bytes of UTF-8."""
    RocksDbEventStore.open_primary(tmp_path / "realtime").close()
    save_as_string_users(signals)
    stage = make_stage(signals, catalogue, realtime=tmp_path / "realtime")
    longest, too_long = "é" * 512, "é" * 512 + "x"
    known, refused = run_batch(stage, [{"user_id": np.array([u.encode()], np.object_)} for u in (longest, too_long)])
    assert len(known["history_item_key"]) == 0
    assert isinstance(refused, InvalidRequestError)
    assert str(refused) == "user_id has 1025 bytes: expected at most 1024"


def test_outcomes_travel_with_the_history(stage):
    answer = fetch(stage, query="lamp")
    expected = [row[2] for row in expected_sequences(EVENTS, end=1050)[7]]
    assert answer["history_outcome"].tolist() == [*expected, NO_OUTCOME]
    assert {0, 1, NO_OUTCOME} <= set(expected)


def test_weights_may_be_written_with_three_decimals(stage):
    answer = fetch(stage, budget=[0.333, 0.666])
    np.testing.assert_allclose(answer["resolved_budget"], [1 / 3, 2 / 3], rtol=1e-6)  # rounding of float32


def test_what_it_measures(signals, catalogue, tmp_path):
    recorded = Recorded()
    realtime = tmp_path / "realtime"
    stage = make_stage(signals, catalogue, realtime=realtime, metrics=recorded)
    assert len(recorded.of(BATCH_END)) == 1
    known = fetch(stage)
    assert recorded.of(REALTIME_UP) == [0]  # there is no store yet
    stage._histories._realtime._retry_at = 0
    pin = {"item_type": ItemType.PIN, "surface": "home", "action": "save", "item_key": 101, "timestamp": NOW - 9}
    with RocksDbEventStore.open_primary(realtime) as store:
        store.append([
            Event(event_id="e", user_key=(user + (1 << 63)).to_bytes(8, "big"), **pin) for user in (7, 999)
        ])  # fmt: skip
        run_batch(stage, [request(7), request(999), request(998)])
    assert {source: recorded.total(HISTORIES, source) for source in SOURCES} == {
        "batch": 1, "both": 1, "realtime": 1, "none": 1,
    }  # fmt: skip
    length = len(known["history_item_key"])
    assert recorded.of(HISTORY_INTERACTIONS) == [length, length + 1, 1, 0]
    assert recorded.of(HISTORY_AGE_SECONDS)[1:] == [9, 9]  # of nobody who is unknown
    assert recorded.of(REALTIME_UP) == [0, 1]
    assert len(recorded.of(CATCH_UP_SECONDS)) == 2  # once for each batch
