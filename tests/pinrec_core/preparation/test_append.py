"""A dataset with a day appended has the events, items and features of the whole log prepared at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import DataError
from pinrec_core.history import ItemType
from pinrec_core.preparation import append
from pinrec_core.preparation.append import append_events
from pinrec_core.preparation.prepare import prepare_dataset
from tests.pinrec_core.preparation.small_log import ITEMS, NOW, SPEC, T0, event, write_parquet

DAY_ONE = [
    event(user=1, item=1, time=T0),
    event(user=2, item=2, action="save", time=T0 + 5),
    event(user=2, item=None, action="search", time=T0 + 6, query="red shoes"),
    event(user=1, item=3, action="view", time=T0 + 9),
    event(user=1, item=99, time=T0 + 10),  # unknown: it takes an ordinal
]
NEW_ITEM = {"id": 50, "title": "A new lamp", "category": "light"}
DAY_TWO = [
    event(user=3, item=50, time=T0 + 100, surface="elsewhere"),
    event(user=1, item=4, action="save", time=T0 - 50),  # late
    event(user=1, item=None, action="search", time=T0 + 101, query="lamp"),
    event(user=1, item=None, action="search", time=T0 + 102, query="red shoes"),
    event(user=1, item=77, time=T0 + 103),  # unknown
    event(user=3, item=50, time=T0 + 100, surface="home"),  # a repeat of the first
]


def prepared(tmp_path: Path, name: str, events: list, items: list, spec=SPEC) -> Path:
    log = tmp_path / f"{name}-log"
    log.mkdir()
    write_parquet(log / "events.parquet", events)
    if spec.items:
        write_parquet(log / "items.parquet", items)
    prepare_dataset(spec, log, tmp_path / name, now=NOW)
    return tmp_path / name


def day_two(tmp_path: Path, items: list | None = None) -> Path:
    folder = tmp_path / "day-two"
    folder.mkdir()
    write_parquet(folder / "events.parquet", DAY_TWO)
    if items:
        write_parquet(folder / "items.parquet", items)
    return folder


def events_of(folder: Path) -> list[dict]:
    return pq.read_table(folder / "events").sort_by("ordinal").to_pylist()


def features_of(folder: Path) -> dict:
    rows = pq.read_table(folder / "features.parquet").to_pylist()
    by_key = {(row["item_type"], row["key"]): (row["feature"], row["scale"]) for row in rows}
    assert len(by_key) == len(rows), "a key has two rows"
    return by_key


@pytest.mark.parametrize("with_items", [True, False])
def test_equals_the_whole_log_prepared_at_once(tmp_path, with_items):
    spec = SPEC if with_items else replace(SPEC, items=None)
    dataset = prepared(tmp_path, "data", DAY_ONE, ITEMS, spec)
    before = pq.read_table(dataset / "features.parquet")
    report = append_events(spec, day_two(tmp_path, [ITEMS[0], NEW_ITEM] if with_items else None), dataset, now=NOW)
    whole = prepared(tmp_path, "whole", DAY_ONE + DAY_TWO, [*ITEMS, NEW_ITEM], spec)

    got, expected = events_of(dataset), events_of(whole)
    for row in expected:
        row["surface"] = "" if row["surface"] == "elsewhere" else row["surface"]  # the vocabulary stays
    names = [name for name in expected[0] if name != "ordinal"]
    assert [[row[name] for name in names] for row in got] == [[row[name] for name in names] for row in expected]
    assert len({row["ordinal"] for row in got}) == len(got)
    assert features_of(dataset) == features_of(whole)
    assert pq.read_table(dataset / "features.parquet").slice(0, len(before)).equals(before), "earlier rows moved"
    a, b = ItemCatalogue.open(dataset), ItemCatalogue.open(whole)
    assert a.item_key.tolist() == b.item_key.tolist()
    assert [a.title(row) for row in range(len(a))] == [b.title(row) for row in range(len(b))]
    x, y = DatasetManifest.load(dataset), DatasetManifest.load(whole)
    assert (x.num_events, x.num_items, x.first_timestamp, x.last_timestamp) == (
        y.num_events, y.num_items, y.first_timestamp, y.last_timestamp,
    )  # fmt: skip
    assert x.identity == replace(y, surfaces=x.surfaces).identity
    assert report.new_queries == 1
    assert report.new_items == (1 if with_items else 3)
    assert report.rows_read == 6 == report.valid_events + report.quarantined_events
    aside = pq.read_table(dataset / "quarantine-00001.parquet").to_pylist()
    assert sorted(row["reason"] for row in aside if row["file"] == "events.parquet") == (
        ["duplicate_event", "unknown_item"] if with_items else ["duplicate_event"]
    )


def test_new_events_come_behind_all_earlier_ones(tmp_path):
    dataset = prepared(tmp_path, "data", DAY_ONE, ITEMS)
    first = events_of(dataset)
    folder = day_two(tmp_path)
    for number in (1, 2):
        earlier = max(row["ordinal"] for row in events_of(dataset))
        report = append_events(SPEC, folder, dataset, now=NOW)
        assert report.file == f"events/part-{number:05d}.parquet"
        assert min(pq.read_table(dataset / report.file)["ordinal"].to_pylist()) > earlier
    assert events_of(dataset)[: len(first)] == first
    assert report.new_queries == 0, "the second time, all texts are known"
    assert {t for t, _ in features_of(dataset)} == {ItemType.PIN, ItemType.QUERY}


@pytest.mark.parametrize("step", ["_write_features", "_write_new_catalogue", "_write_one_file"])
def test_a_call_that_fails_changes_nothing(tmp_path, monkeypatch, step):
    dataset = prepared(tmp_path, "data", DAY_ONE, ITEMS)
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    folder = day_two(tmp_path, [NEW_ITEM])
    with monkeypatch.context() as patch:
        patch.setattr(append, step, fail)
        with pytest.raises(OSError, match="the disk is full"):
            append_events(SPEC, folder, dataset, now=NOW)
    after = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    assert {path.name for path in set(after) - set(before)} <= {".lock"}
    assert {path: after[path] for path in before} == before
    (dataset / append.STAGING).mkdir()  # as a killed process leaves it
    assert append_events(SPEC, folder, dataset, now=NOW).valid_events == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outcomes": ("click", "save")}, r"outcomes=\('click', 'save'\): expected \('save', 'click'\)"),
        ({"ignored_actions": ()}, "ignored_actions="),
        ({"text_encoder": "hashed_ngram:16"}, "text_encoder='hashed_ngram:16': expected what makes features of"),
        ({"collapse_repeats": True}, "collapse_repeats=True: expected false"),
        ({"items": replace(SPEC.items, is_query="category")}, "items.is_query='category': expected none"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(tmp_path, changes, message):
    dataset = prepared(tmp_path, "data", DAY_ONE, ITEMS)
    with pytest.raises(DataError, match=message):
        append_events(replace(SPEC, **changes), day_two(tmp_path), dataset, now=NOW)


def test_a_piece_without_a_valid_event_is_refused(tmp_path):
    dataset = prepared(tmp_path, "data", DAY_ONE, ITEMS)
    folder = tmp_path / "bad"
    folder.mkdir()
    write_parquet(folder / "events.parquet", [event(item=77)])
    with pytest.raises(DataError, match="expected at least one valid event, 1 rows were set aside"):
        append_events(SPEC, folder, dataset, now=NOW)
    assert len(list((dataset / "events").iterdir())) == 1
