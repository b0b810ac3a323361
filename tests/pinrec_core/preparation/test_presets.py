"""Every preset fits the folder that it describes. The expected row counts are from the folders' descriptions."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.history import ItemType
from pinrec_core.ids import string_key
from pinrec_core.preparation.prepare import prepare_dataset
from pinrec_core.preparation.schema import load_preset

NOW = 1_763_000_000

COUNTS = {
    # preset: (rows, users, items, valid, quarantined, collapsed)
    "ml100k": (100_000, 943, 1_682, 100_000, 0, 0),
    "trivago": (100_003, 6_593, 13_949, 36_862, 199, 62_942),
    "yelp": (722_659, 19_800, 22_734, 722_659, 0, 0),
    "tmall": (182_880, 884, 9_531, 83_822, 104, 98_954),
    "taobao": (85_213, 1_476, 34_505, 80_871, 2_068, 2_274),
    "beauty": (198_502, 22_363, 12_101, 198_502, 0, 0),
    "toys": (167_597, 19_412, 11_924, 167_597, 0, 0),
    "ml1m": (999_611, 6_040, 3_416, 999_611, 0, 0),
    "globo": (2_988_181, 322_897, 46_033, 2_988_181, 0, 0),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name, data_root, tmp_path):
    spec = load_preset(name)
    folder = data_root / spec.aliases[0]
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    report = prepare_dataset(spec, folder, tmp_path / name, now=NOW)
    assert (
        report.rows_read, report.num_users, report.num_items, report.valid_events, report.quarantined_events,
        report.collapsed_events,
    ) == COUNTS[name]  # fmt: skip
    manifest = DatasetManifest.load(tmp_path / name)
    assert sum(manifest.outcome_share) == pytest.approx(1.0)
    assert manifest.num_events == sum(
        f.metadata.num_rows for f in map(pq.ParquetFile, (tmp_path / name / "events").iterdir())
    )
    assert len(ItemCatalogue.open(tmp_path / name)) == report.num_items


def test_trivago_has_queries_with_text_and_outcomes_on_hotels_alone(data_root, tmp_path):
    spec = load_preset("trivago")
    report = prepare_dataset(spec, data_root / "trivago_sample", tmp_path / "out", now=NOW)
    events = pq.read_table(tmp_path / "out" / "events").to_pylist()
    assert {e["action"] for e in events if e["item_type"] == ItemType.QUERY} == set(spec.query_actions)
    assert {e["action"] for e in events if e["item_type"] == ItemType.PIN} == set(spec.outcomes)
    features = pq.read_table(tmp_path / "out" / "features.parquet", columns=["key", "item_type", "scale"]).to_pylist()
    of_queries = {f["key"]: f["scale"] for f in features if f["item_type"] == ItemType.QUERY}
    assert set(of_queries) == {e["item_key"] for e in events if e["item_type"] == ItemType.QUERY}
    assert report.num_queries == len(of_queries) == 2_121
    assert min(of_queries.values()) > 0
    assert string_key("Berlin, Germany") in of_queries
    reasons = {entry.reason: entry.rows for entry in report.quarantine}
    assert reasons == {"duplicate_event": 195, "item_type_mismatch": 4}
    assert report.surfaces == 156
