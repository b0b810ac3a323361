"""Preparation as a whole: which rows are kept, which are set aside, and that the counts add up."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pinrec_core import limits
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import DataError
from pinrec_core.ids import IdKind, string_key
from pinrec_core.preparation.prepare import prepare_dataset
from pinrec_core.preparation.schema import ItemColumns
from pinrec_core.representations.quantization import dequantize
from pinrec_core.representations.text_encoder import text_encoder
from tests.pinrec_core.preparation.small_log import ITEM_COLUMNS, ITEMS, NOW, SPEC, T0, event, write_csv, write_parquet


def test_a_good_log_becomes_a_complete_dataset(run):
    prepared = run([event(1, 1, "click", T0), event(1, 2, "save", T0 + 5), event(2, 3, "view", T0 + 9)])
    manifest = DatasetManifest.load(prepared.folder)
    assert (manifest.num_users, manifest.num_items, manifest.num_events) == (2, 5, 3)
    assert manifest.outcomes == ("save", "click")
    assert manifest.outcome_share == (0.5, 0.5)
    assert manifest.surfaces == ("", "home")
    assert (manifest.first_timestamp, manifest.last_timestamp) == (T0, T0 + 9)
    assert manifest.feature_space == "hashed_ngram:256+vector:0"
    assert prepared.quarantine == []
    assert prepared.events[1] == {
        "user_id": 1, "item_key": 2, "item_type": 0, "action": "save", "surface": "home", "timestamp": T0 + 5,
        "ordinal": 1,
    }  # fmt: skip
    assert not (prepared.folder / "staging").exists()
    assert json.loads((prepared.folder / "report.json").read_text())["rows_read"] == 3


def test_each_fault_has_its_reason_and_nothing_is_lost(run, log):
    """The log has good rows and one row of every fault that is possible in a typed file."""
    good = [event(1, 1, "click", T0), event(2, 2, "save", T0)]
    bad = [
        (event(user=None), "missing_value"),
        (event(item=None), "missing_value"),
        (event(action=None), "missing_value"),
        (event(action=" "), "missing_value"),
        (event(time=None), "missing_value"),
        (event(time=math.nan), "non_finite"),
        (event(time=math.inf), "non_finite"),
        (event(item=1.5), "wrong_type"),
        (event(item=math.nan), "non_finite"),
        (event(action="likes"), "unknown_action"),
        (event(time=-5), "time_out_of_range"),
        (event(time=T0 * 1000), "time_out_of_range"),  # milliseconds taken for seconds
        (event(time=NOW + 90_000), "time_out_of_range"),
        (event(item=99), "unknown_item"),
        (event(user=9, action="search", item=1, query=None), "missing_query_text"),
        (event(1, 1, "click", T0), "duplicate_event"),
    ]  # fmt: skip
    rows = good + [row for row, _ in bad]
    for row in rows:
        row["item"] = None if row["item"] is None else float(row["item"])
        row["time"] = None if row["time"] is None else float(row["time"])
    prepared = run(rows)
    expected = {number + len(good): reason for number, (_, reason) in enumerate(bad)}
    assert prepared.reasons == expected
    report = prepared.report
    assert (report.rows_read, report.valid_events, report.quarantined_events) == (len(rows), 2, len(bad))
    assert sum(entry.rows for entry in report.quarantine) == len(bad)
    (duplicate,) = [r for r in prepared.quarantine if r["reason"] == "duplicate_event"]
    assert duplicate["value"] == "same event as events.parquet row 0"


def test_csv_faults_are_found_by_row_and_cost_only_their_row(run, log):
    good = [b"1,1,click,%d,home," % (T0 + n) for n in range(3)]
    bad = {
        b"1,1,click": "malformed_row",
        b"1,1,click,%d,home,,,," % T0: "malformed_row",
        b"x,1,click,%d,home," % T0: "wrong_type",
        b"1,nan,click,%d,home," % T0: "non_finite",
        b"1,1,cl\xffick,%d,home," % T0: "invalid_utf8",
        b",1,click,%d,home," % T0: "missing_value",
        b"1,1,click,soon,home,": "wrong_type",
        b"1,1,click,inf,home,": "non_finite",
        b"99999999999999999999999,1,click,%d,home," % T0: "wrong_type",
        b"9999999999999999999,1,click,%d,home," % T0: "out_of_range",
    }
    lines = [good[0], *bad, b"", *good[1:]]  # the blank line is no record
    (log / "events.csv").write_bytes(b"user,item,action,time,surface,query\n" + b"\n".join(lines) + b"\n")
    prepared = run(spec=replace(SPEC, user_id_kind=IdKind.INT, item_id_kind=IdKind.INT))
    assert prepared.reasons == {number + 1: reason for number, reason in enumerate(bad.values())}
    assert [e["ordinal"] for e in prepared.events] == [0, 11, 12]
    assert prepared.report.rows_read == 13
    (broken,) = [r for r in prepared.quarantine if r["row"] == 1]
    assert "3 cells, not 6" in broken["value"]


def test_malformed_rows_that_are_not_utf8_cost_only_their_row(run, log):
    lines = [b"1,1,cl\xffick", b"1,1,click,%d,home," % T0, b"\xff,1,click,%d,home,,x" % T0]
    (log / "events.csv").write_bytes(b"user,item,action,time,surface,query\n" + b"\n".join(lines))
    (log / "items.csv").write_bytes(b"id,title,category\n7,\xe4\n1,Oak t\xe4ble,odd,\xff\n1,Oak table,odd\n\xe4")
    prepared = run(items=None)
    assert [e["ordinal"] for e in prepared.events] == [1]
    assert [(r["file"], r["row"], r["reason"], r["value"]) for r in prepared.quarantine] == [
        ("events.csv", 0, "malformed_row", "3 cells, not 6: 1,1,cl\ufffdick"),
        ("events.csv", 2, "malformed_row", f"7 cells, not 6: \ufffd,1,click,{T0},home,,x"),
        ("items.csv", 0, "malformed_row", "2 cells, not 3: 7,\ufffd"),
        ("items.csv", 1, "malformed_row", "4 cells, not 3: 1,Oak t\ufffdble,odd,\ufffd"),
        ("items.csv", 3, "malformed_row", "1 cells, not 3: \ufffd"),
    ]
    assert ItemCatalogue.open(prepared.folder).title(0) == "Oak table"


def test_csv_and_parquet_of_the_same_log_agree(run, log):
    events = [event(n % 3, 1 + n % 5, ("click", "save")[n % 2], T0 + n) for n in range(40)]
    from_parquet = run(events).events
    (log / "events.parquet").unlink()
    (log / "items.parquet").unlink()
    write_csv(log / "events.csv", events)
    write_csv(log / "items.csv", ITEMS)
    from_csv = run()
    assert from_csv.events == from_parquet
    assert ItemCatalogue.open(from_csv.folder).title(0) == "Item number 1"


def test_several_files_count_and_locate_rows_by_file(run, log):
    write_parquet(log / "events.1.parquet", [event(time=T0 + n) for n in range(4)])
    write_parquet(log / "events.2.parquet", [event(time=T0 + n) for n in (2, 4)])
    prepared = run(spec=replace(SPEC, events=replace(SPEC.events, files=("events.*.parquet",))))
    assert prepared.report.files == {"events.1.parquet": 4, "events.2.parquet": 2}
    (duplicate,) = prepared.quarantine
    assert (duplicate["file"], duplicate["row"]) == ("events.2.parquet", 0)
    assert duplicate["value"] == "same event as events.1.parquet row 2"
    assert [e["ordinal"] for e in prepared.events] == [0, 1, 2, 3, 5]


def test_string_ids_keep_their_text_in_the_catalogue(run):
    items = [{"id": f"pin-{n}", "title": f"Title {n}", "category": ""} for n in range(4)]
    prepared = run([event("anna", "pin-2"), event("béla", "pin-0"), event("anna", "pin-9")], items)
    manifest = DatasetManifest.load(prepared.folder)
    assert (manifest.user_id_kind, manifest.item_id_kind) == (IdKind.STRING, IdKind.STRING)
    assert {e["user_id"] for e in prepared.events} == {"anna", "béla"}
    assert prepared.events[0]["item_key"] == string_key("pin-2")
    catalogue = ItemCatalogue.open(prepared.folder)
    row = catalogue.rows_of(np.array([string_key("pin-2")]))
    assert list(catalogue.item_ids(row)) == ["pin-2"]
    assert prepared.reasons == {2: "unknown_item"}


def test_string_ids_that_the_real_time_store_cannot_hold_are_set_aside(run):
    """The limit is in bytes of UTF-8, of which "é" has two."""
    longest, too_long = "é" * (limits.ID.most // 2), "é" * (limits.ID.most // 2) + "x"
    items = [{"id": name, "title": "", "category": ""} for name in (longest, too_long)]
    prepared = run([event(longest, longest), event(too_long, longest), event(longest, too_long)], items)
    assert prepared.reasons == {1: "id_too_long", 2: "id_too_long"}
    assert [r["row"] for r in prepared.quarantine if r["file"] == "items.parquet"] == [1]
    assert [e["user_id"] for e in prepared.events] == [longest]
    assert prepared.quarantine[0]["value"] == too_long[:200]


def test_given_id_kinds_win_over_inference(run):
    spec = replace(SPEC, user_id_kind=IdKind.STRING)
    prepared = run([event(7), event(8)], spec=spec)
    assert {e["user_id"] for e in prepared.events} == {"7", "8"}


def test_without_an_items_file_the_catalogue_is_what_the_log_holds(run):
    spec = replace(SPEC, items=None)
    prepared = run([event(item=5), event(item=3, time=T0 + 1), event(item=None, action="search", query="cats")],
                   spec=spec)  # fmt: skip
    catalogue = ItemCatalogue.open(prepared.folder)
    assert list(catalogue.item_key) == [3, 5]
    assert catalogue.title(0) == ""
    assert prepared.report.query_events == 1


def test_a_query_takes_its_text_from_the_event_or_from_the_query_item(run):
    items = [
        {"id": 1, "title": "Oak table", "q": False},
        {"id": 10, "title": " Berlin ", "q": True},
    ]
    columns = ItemColumns(files=("items.parquet",), id="id", title="title", is_query="q")
    prepared = run(
        [
            event(item=10, action="search"),
            event(item=None, action="search", query=" red shoes ", time=T0 + 1),
            event(item=10, action="search", query="Paris", time=T0 + 2),
            event(item=10, action="click", time=T0 + 3),
            event(item=1, action="click", query="a text that led here", time=T0 + 4),
        ],
        items,
        replace(SPEC, items=columns),
    )  # fmt: skip
    keys = [(e["item_key"], e["item_type"]) for e in prepared.events]
    assert keys == [(string_key("Berlin"), 1), (string_key("red shoes"), 1), (string_key("Paris"), 1), (1, 0)]
    assert prepared.reasons == {3: "item_type_mismatch"}
    assert DatasetManifest.load(prepared.folder).num_items == 1

    features = {(r["key"], r["item_type"]): r for r in pq.read_table(prepared.folder / "features.parquet").to_pylist()}
    assert set(features) == {(1, 0), *keys[:3]}
    berlin = features[string_key("Berlin"), 1]
    vector = dequantize(np.frombuffer(berlin["feature"], np.int8)[None], np.array([berlin["scale"]]))[0]
    np.testing.assert_allclose(
        vector, text_encoder("hashed_ngram").encode_one("Berlin"), atol=berlin["scale"] / 2 + 1e-6
    )


def test_vectors_are_normalised_and_follow_the_text_part(run):
    items = [
        {"id": 1, "title": "a", "category": "", "vector": [3.0, 4.0]},
        {"id": 2, "title": "", "category": "", "vector": None},
        {"id": 3, "title": "c", "category": "", "vector": [1.0, 2.0, 3.0]},
        {"id": 4, "title": "d", "category": "", "vector": [1.0, math.inf]},
        {"id": 1, "title": "again", "category": "", "vector": [1.0, 1.0]},
    ]
    prepared = run([event(item=1), event(item=2)], items, replace(SPEC, items=replace(ITEM_COLUMNS, vector="vector")))
    assert [(r["row"], r["reason"]) for r in prepared.quarantine] == [
        (2, "vector_width"), (3, "non_finite"), (4, "duplicate_item"),
    ]  # fmt: skip
    assert prepared.report.quarantined_items == 3
    catalogue = ItemCatalogue.open(prepared.folder)
    assert catalogue.feature.shape == (2, 258)
    vector = dequantize(catalogue.feature, catalogue.scale)
    np.testing.assert_allclose(vector[0, 256:], [0.6, 0.8], atol=catalogue.scale[0] / 2 + 1e-6)  # half a quantum
    assert not vector[1].any()
    assert catalogue.title(0) == "a"


def test_text_vectors_of_a_csv(run, log):
    (log / "items.csv").write_text('id,title,category,vector\n1,a,x|y,"[3.0, 4.0]"\n2,b,,0 1\n3,c,,\n4,d,,1 x\n')
    columns = replace(ITEM_COLUMNS, vector="vector", category_separator="|")
    prepared = run([event(item=1), event(item=2)], None, replace(SPEC, items=columns))
    catalogue = ItemCatalogue.open(prepared.folder)
    vector = dequantize(catalogue.feature, catalogue.scale)[:, 256:]
    np.testing.assert_allclose(
        vector, [[0.6, 0.8], [0.0, 1.0], [0.0, 0.0]], atol=float(catalogue.scale.max()) / 2 + 1e-6
    )
    assert catalogue.categories(0) == "x, y"
    assert [(r["row"], r["reason"]) for r in prepared.quarantine] == [(3, "non_finite")]


def test_surfaces_beyond_the_cap_are_written_as_unknown_and_reported(run):
    names = ["rare", "home", "home", "home", "search", "search", ""]
    prepared = run([event(time=T0 + n, surface=s) for n, s in enumerate(names)], spec=replace(SPEC, max_surfaces=3))
    assert DatasetManifest.load(prepared.folder).surfaces == ("", "home", "search")
    assert [e["surface"] for e in prepared.events] == ["", "home", "home", "home", "search", "search", ""]
    assert (prepared.report.surfaces_left_out, prepared.report.unlisted_surface_events) == (1, 1)


def test_order_only_times_are_positions(run):
    spec = replace(SPEC, events=replace(SPEC.events, order_only_time=True))
    prepared = run([event(time=0), event(time=1), event(time=-1), event(time=NOW * 1000)], spec=spec)
    assert prepared.reasons == {2: "time_out_of_range"}
    assert prepared.report.events_ahead == 0
    assert DatasetManifest.load(prepared.folder).last_timestamp == NOW * 1000


def test_events_ahead_of_the_clock_are_kept_and_counted_and_do_not_end_the_batch(run):
    """The default end of a batch lies just behind the manifest's ``last_timestamp``."""
    times = [T0, NOW - 10, NOW - 1, NOW, NOW + 7200, NOW + 90_000]
    prepared = run([event(user=n, time=time) for n, time in enumerate(times)])
    assert prepared.reasons == {5: "time_out_of_range"}
    assert [e["timestamp"] for e in prepared.events] == times[:5]
    assert prepared.report.events_ahead == 2
    assert DatasetManifest.load(prepared.folder).last_timestamp == NOW - 1


def test_a_log_that_lies_ahead_of_the_clock_as_a_whole_is_refused(run):
    with pytest.raises(DataError, match=f"all 2 valid events are dated after now={NOW}, the first at {NOW + 60}: "):
        run([event(time=NOW + 3600), event(time=NOW + 60)])


@pytest.mark.parametrize(
    ("unit", "time"),
    [
        ("s", str(T0)),
        ("ms", T0 * 10**3 + 7),
        ("us", T0 * 10**6),
        ("iso8601", "2023-11-03T08:26:40Z"),
        ("iso8601", "2023-11-03 09:26:40+01:00"),
    ],
)
def test_time_units(run, unit, time):
    prepared = run([event(time=time)], spec=replace(SPEC, events=replace(SPEC.events, time_unit=unit)))
    assert prepared.events[0]["timestamp"] == T0


def test_an_item_type_without_an_embedder_is_refused(run):
    spec = replace(SPEC, events=replace(SPEC.events, item_type="surface"))
    with pytest.raises(DataError, match=r"events.parquet row 1: surface='board': expected one of \['pin', 'query'\]"):
        run([event(surface="pin"), event(surface="board")], spec=spec)


def test_a_log_without_a_usable_row_is_refused_with_the_likely_cause(run, tmp_path):
    with pytest.raises(DataError, match=r"2 rows have time_out_of_range, first events.parquet row 0: time="):
        run([event(time=T0 * 1000), event(time=T0 * 1000)])
    assert list(tmp_path.glob("*out*")) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": ("absent.parquet",)}, "expected a name or glob of at least one file"),
        ({"files": ("notes.txt",)}, "expected .parquet, .csv"),
        ({"user": "who"}, r"no column \['who'\]"),
        ({"files": ("damaged.parquet",)}, "expected a readable parquet file"),
        ({"files": ("empty.csv",)}, "expected a readable csv file"),
        ({"files": ("malformed.csv",)}, "expected at least one event"),
    ],
)
def test_unusable_files_are_refused_in_a_sentence(run, log, change, message):
    (log / "notes.txt").write_text("hello")
    (log / "damaged.parquet").write_bytes(b"PAR1 this is not parquet PAR1")
    (log / "empty.csv").write_bytes(b"")
    (log / "malformed.csv").write_bytes(b"user,item,action,time,surface,query\n1,2\n")
    with pytest.raises(DataError, match=message):
        run([event()], spec=replace(SPEC, events=replace(SPEC.events, **change)))


def test_an_existing_folder_is_replaced_only_when_asked_and_only_if_it_is_a_dataset(run, log, tmp_path):
    run([event()])
    with pytest.raises(DataError, match="--overwrite replaces a dataset"):
        prepare_dataset(SPEC, log, tmp_path / "out", now=NOW)
    with pytest.raises(DataError, match="this is something else"):
        prepare_dataset(SPEC, log, log, now=NOW, overwrite=True)
    assert {p.name for p in log.iterdir()} == {"events.parquet", "items.parquet"}


def test_a_failed_preparation_leaves_the_old_dataset(run, tmp_path):
    before = run([event()]).events
    with pytest.raises(DataError):
        run([event(action="unheard of")])
    folder: Path = tmp_path / "out"
    assert pq.read_table(folder / "events").to_pylist() == before
    assert {p.name for p in tmp_path.iterdir()} == {"log", "out"}


def test_signals_are_part_of_the_dataset_or_there_is_none(run, log, tmp_path):
    def fail(dataset: Path) -> None:
        assert (dataset / "dataset.json").is_file()
        (dataset / "signals").mkdir()
        raise DataError("no Spark today")

    before = run([event()]).events
    for out, overwrite in ((tmp_path / "out", True), (tmp_path / "other", False)):
        with pytest.raises(DataError, match="no Spark today"):
            prepare_dataset(SPEC, log, out, now=NOW, overwrite=overwrite, add_signals=fail)
    assert pq.read_table(tmp_path / "out" / "events").to_pylist() == before
    assert not (tmp_path / "out" / "signals").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"log", "out"}


def test_real_time_events_are_never_replaced(run, log, tmp_path):
    """Events that were there before are kept, and so are those that a server stores during the preparation."""
    run([event()])
    store = tmp_path / "out" / "signals" / "realtime"
    refused = re.escape(f"--overwrite would delete {store}; stop the server, then keep them elsewhere (`mv {store} ")

    def serve(dataset: Path) -> None:
        store.mkdir(parents=True)
        (store / "CURRENT").write_text("MANIFEST-000005")

    for add_signals in (serve, None):
        with pytest.raises(DataError, match=refused):
            prepare_dataset(SPEC, log, tmp_path / "out", now=NOW, overwrite=True, add_signals=add_signals)
        assert (store / "CURRENT").read_text() == "MANIFEST-000005"
    store.rename(tmp_path / "elsewhere")
    prepare_dataset(SPEC, log, tmp_path / "out", now=NOW, overwrite=True)
