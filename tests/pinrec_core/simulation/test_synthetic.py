"""The synthetic log has the promised properties: skew, preferences by outcome, searches with results, drift."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pinrec_core.errors import ConfigError, DataError
from pinrec_core.preparation.prepare import prepare_dataset
from pinrec_core.preparation.schema import load_spec
from pinrec_core.simulation import synthetic_log
from pinrec_core.simulation.latent_world import ACTIONS, DAYS, SEARCH, START, EventChunk, LatentWorld, WorldConfig
from pinrec_core.simulation.synthetic_log import event_chunks, write_synthetic_log

CONFIG = WorldConfig(users=400, items=1200, events=60_000, seed=3)


def whole_log(world: LatentWorld, chunk_events: int = 1 << 18) -> EventChunk:
    chunks = list(event_chunks(world, chunk_events))
    names = EventChunk.__dataclass_fields__
    return EventChunk(*(np.concatenate([getattr(c, name) for c in chunks]) for name in names))


@pytest.fixture(scope="module")
def world() -> LatentWorld:
    return LatentWorld(CONFIG)


@pytest.fixture(scope="module")
def log(world) -> EventChunk:
    return whole_log(world)


def test_size_and_order(log):
    assert len(log) == CONFIG.events
    assert set(log.user) == set(range(CONFIG.users))
    same_user = log.user[1:] == log.user[:-1]
    assert (np.diff(log.user) >= 0).all()
    assert (np.diff(log.timestamp)[same_user] > 0).all()
    assert log.timestamp.min() >= START
    assert log.timestamp.max() < START + 2 * DAYS * 86_400
    assert ((log.item < 0) == (log.action == SEARCH)).all()


def test_popularity_is_skewed(log):
    counts = np.sort(np.bincount(log.item[log.item >= 0], minlength=CONFIG.items))[::-1]
    top = counts[: CONFIG.items // 100].sum() / counts.sum()
    assert top > 0.10, (
        f"the most popular hundredth of the items has {top:.3f} of the events, 0.01 if there were no skew"
    )


def test_outcomes_prefer_different_items(world, log):
    """The share of an outcome is at least twice as large for the items of its own style as for the others."""
    pins = log.item >= 0
    style = world.style[log.item[pins]]
    action = log.action[pins]
    for outcome, name in enumerate(ACTIONS[:4]):
        at_home, elsewhere = (action == outcome)[style == outcome].mean(), (action == outcome)[style != outcome].mean()
        assert at_home > 2 * elsewhere, f"{name}: {at_home:.3f} at home, {elsewhere:.3f} elsewhere"


def test_preference_by_outcome_exceeds_chance(log):
    """The total variation between the items of two outcomes exceeds that of a random split of the same events."""
    rng = np.random.default_rng(0)

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        shares = [np.bincount(x, minlength=CONFIG.items) / len(x) for x in (a, b)]
        return 0.5 * float(np.abs(shares[0] - shares[1]).sum())

    saved, clicked = log.item[log.action == 0], log.item[log.action == 1]
    mixed = rng.permutation(np.concatenate([saved, clicked]))
    by_outcome, by_chance = distance(saved, clicked), distance(mixed[: len(saved)], mixed[len(saved) :])
    assert by_outcome > by_chance + 0.2, f"by outcome {by_outcome:.3f}, by chance {by_chance:.3f}"


def test_a_search_leads_to_items_of_its_niche(world, log):
    asked = np.flatnonzero((log.query[:-1] >= 0) & (log.query[1:] < 0) & (log.user[1:] == log.user[:-1]))
    text = np.array(world.query_texts)[log.query[asked]]
    niche = [world.niches[n][1] for n in world.niche[log.item[asked + 1]]]
    share = np.mean([n in t for n, t in zip(niche, text, strict=True)])
    assert len(asked) > 500
    assert share > 0.8, f"{share:.3f} of the events after a search match its text"


def test_interests_drift(world, log):
    """The topics of a user's first tenth of events are more like those of the second tenth than of the last."""
    topic = np.array([list(dict.fromkeys(t for t, _ in world.niches)).index(t) for t, _ in world.niches])
    pins = log.item >= 0
    user, of_event = log.user[pins], topic[world.niche[log.item[pins]]]
    near, far = [], []
    for u in range(CONFIG.users):
        seen = of_event[user == u]
        if len(seen) >= 200:
            tenth = len(seen) // 10
            share = [np.bincount(part, minlength=topic.max() + 1) / tenth
                     for part in (seen[:tenth], seen[tenth : 2 * tenth], seen[-tenth:])]  # fmt: skip
            near.append(np.minimum(share[0], share[1]).sum())
            far.append(np.minimum(share[0], share[2]).sum())
    assert len(near) > 50
    assert np.mean(near) > np.mean(far) + 0.05, f"near {np.mean(near):.3f}, far {np.mean(far):.3f}"


def test_titles_name_their_niche(world):
    for item in range(0, CONFIG.items, 97):
        assert world.niches[world.niche[item]][1].lower() in world.title(item).lower()


def test_no_queries_means_none():
    log = whole_log(LatentWorld(WorldConfig(users=50, items=100, events=2000, queries=False)))
    assert (log.query < 0).all()
    assert (log.item >= 0).all()


@pytest.mark.parametrize("items", [1, 7, 119, 121])
def test_small_catalogues(items):
    log = whole_log(LatentWorld(WorldConfig(users=5, items=items, events=500)))
    assert log.item.max() < items


def digest(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_a_seed_decides_every_byte(tmp_path):
    config = WorldConfig(users=60, items=100, events=3000, seed=5)
    for out in ("a/log", "b/log"):
        (tmp_path / out).parent.mkdir()
        write_synthetic_log(config, tmp_path / out)
    write_synthetic_log(WorldConfig(users=60, items=100, events=3000, seed=6), tmp_path / "c")
    assert digest(tmp_path / "a/log") == digest(tmp_path / "b/log")
    assert digest(tmp_path / "a/log")["events.parquet"] != digest(tmp_path / "c")["events.parquet"]


@pytest.mark.parametrize("string_ids", [False, True])
@pytest.mark.parametrize("queries", [False, True])
def test_its_own_mapping_prepares_it_without_a_fault(tmp_path, string_ids, queries):
    config = WorldConfig(users=60, items=200, events=3000, queries=queries)
    report = write_synthetic_log(config, tmp_path / "log", string_ids=string_ids)
    prepared = prepare_dataset(load_spec(tmp_path / "log/dataset.toml"), tmp_path / "log", tmp_path / "out", now=2**31)
    assert prepared.rows_read == prepared.valid_events == 3000
    assert prepared.query_events == report.queries
    assert (report.queries > 0) == queries


def test_memory_does_not_grow_with_the_number_of_events():
    """Chunks have a bounded size, and the peak memory for a log eight times as long is about the same."""

    def peak(events: int) -> int:
        world = LatentWorld(WorldConfig(users=500, items=300, events=events))
        tracemalloc.start()
        sizes = [len(chunk) for chunk in event_chunks(world, chunk_events=8192)]
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sum(sizes) == events
        assert max(sizes) <= max(8192, world.events_per_user().max())
        return most

    short, long = peak(40_000), peak(320_000)
    assert long < 1.5 * short, f"{short:,} bytes for 40,000 events, {long:,} for 320,000"


def test_row_groups_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_log, "CHUNK_EVENTS", 2000)
    write_synthetic_log(WorldConfig(users=200, items=100, events=10_000), tmp_path / "log")
    assert pq.ParquetFile(tmp_path / "log/events.parquet").num_row_groups > 4


def test_impossible_sizes_and_places_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="events=5: expected at least one per user"):
        WorldConfig(users=10, items=5, events=5)
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match="this is something else"):
        write_synthetic_log(CONFIG, tmp_path, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "precious"
