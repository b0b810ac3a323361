"""Builds a small prepared dataset by hand, and in plain Python the output that the batch job must make of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pinrec_core.dataset.catalogue import write_catalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.history import DTYPES, NO_OUTCOME, History, ItemType
from pinrec_core.ids import IdKind, string_key
from pinrec_core.representations.quantization import quantize_int8
from pinrec_core.representations.text_encoder import text_encoder

ENCODER = "hashed_ngram:16"
TITLES = {key: f"item number {key}" for key in range(100, 140)}
QUERIES = ("red shoes", "lamp")
PIN, QUERY = int(ItemType.PIN), int(ItemType.QUERY)

LogRow = tuple[int | str, int, int, str, str, int]  # user, item key, item type, action, surface, timestamp


def make_manifest(user_ids: IdKind, events: list[LogRow], **changes: object) -> DatasetManifest:
    times = [row[5] for row in events]
    values: dict = dict(  # noqa: C408, reads as the manifest does
        name="by hand",
        user_id_kind=user_ids,
        item_id_kind=IdKind.INT,
        outcomes=("save", "click"),
        query_actions=("search",),
        ignored_actions=("hide",),
        surfaces=("", "home", "results"),
        feature_width=20,  # 16 of text and a supplied vector of 4
        feature_space=f"{ENCODER}+vector:4",
        text_encoder=ENCODER,
        num_items=len(TITLES),
        num_users=len({row[0] for row in events}),
        num_events=len(events),
        outcome_share=(0.25, 0.75),
        first_timestamp=min(times),
        last_timestamp=max(times),
    )
    return DatasetManifest(**(values | changes))


def content_features(encoder_width: int = 16, F: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Keys, item types, INT8 features and scales of every pin and query."""
    texts = [*TITLES.values(), *QUERIES]
    vectors = np.zeros((len(texts), F), np.float32)
    vectors[:, :encoder_width] = text_encoder(ENCODER).encode(texts)
    vectors[: len(TITLES), encoder_width:] = np.random.default_rng(0).normal(size=(len(TITLES), F - encoder_width))
    keys = np.array([*TITLES, *(string_key(q) for q in QUERIES)], np.int64)
    types = np.array([PIN] * len(TITLES) + [QUERY] * len(QUERIES), np.int8)
    feature, scale = quantize_int8(vectors)
    return keys, types, feature, scale


def write_prepared(folder: Path, events: list[LogRow], *, user_ids: IdKind = IdKind.INT, parts: int = 2) -> Path:
    """A prepared dataset in the layout of ``pinrec prepare``. The ordinal of an event is its position in ``events``."""
    (folder / "events").mkdir(parents=True)
    (folder / "signals").mkdir()
    make_manifest(user_ids, events).save(folder)
    keys, types, feature, scale = content_features()
    n, pins = len(keys), len(TITLES)
    features = {"key": keys, "item_type": types, "feature": pa.array([f.tobytes() for f in feature]), "scale": scale}
    pq.write_table(pa.table(features), folder / "features.parquet")
    assert n == pins + len(QUERIES)
    write_catalogue(
        folder,
        item_key=keys[:pins],
        item_id=pa.array(keys[:pins]),
        title=pa.array(list(TITLES.values())),
        categories=pa.array([""] * pins),
        feature=feature[:pins],
        scale=scale[:pins],
    )
    user_type = pa.int64() if user_ids is IdKind.INT else pa.string()
    names = ("user_id", "item_key", "item_type", "action", "surface", "timestamp")
    kinds = (user_type, pa.int64(), pa.int8(), pa.string(), pa.string(), pa.int64())
    for part in range(parts):
        columns = {
            name: pa.array([row[column] for row in events[part::parts]], kind)
            for column, (name, kind) in enumerate(zip(names, kinds, strict=True))
        }
        columns["ordinal"] = pa.array(range(part, len(events), parts), pa.int64())
        pq.write_table(pa.table(columns), folder / "events" / f"part-{part}.parquet")
    return folder


def random_log(users: list, num_events: int, seed: int = 0) -> list[LogRow]:
    """Events of every kind, many of them at equal times. The first user has more events than the others."""
    rng = np.random.default_rng(seed)
    rows: list[LogRow] = []
    for _ in range(num_events):
        user = users[0] if rng.random() < 0.4 else users[rng.integers(len(users))]
        surface = ("", "home", "results")[rng.integers(3)]
        time = int(1_000 + rng.integers(60))
        if rng.random() < 0.2:
            rows.append((user, string_key(QUERIES[rng.integers(2)]), QUERY, "search", surface, time))
        else:
            action = ("save", "click", "hide")[rng.integers(3)]
            rows.append((user, int(rng.integers(100, 140)), PIN, action, surface, time))
    return rows


def make_history(rows: list[tuple], F: int = 20) -> History:
    """A history of rows (item key, item type, outcome, surface, timestamp). A row's feature is its number."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    names = ("item_key", "item_type", "outcome", "surface", "timestamp")
    values = {name: np.array(column, DTYPES[name]) for name, column in zip(names, columns, strict=True)}
    feature = np.repeat(np.arange(len(rows), dtype=np.int8)[:, None], F, axis=1)
    return History(**values, feature=feature, scale=np.arange(len(rows), dtype=np.float32))


def expected_sequences(
    events: list[LogRow], *, start: int | None = None, end: int | None = None, limit: int = 2048
) -> dict[int | str, list[tuple]]:
    """The expected output of the job: for each user a list of (item key, type, outcome, surface, timestamp)."""
    users: dict[int | str, list[tuple]] = {}
    seen = set()
    for ordinal, (user, key, kind, action, surface, time) in enumerate(events):
        positive = kind == PIN and action in ("save", "click")
        if (positive or kind == QUERY) and (end is None or time < end) and (start is None or time >= start):
            outcome = ("save", "click").index(action) if positive else NO_OUTCOME
            number = ("", "home", "results").index(surface)
            identity = (user, key, kind, outcome, time)
            if identity in seen:
                continue
            seen.add(identity)
            users.setdefault(user, []).append((time, ordinal, (key, kind, outcome, number, time)))
    return {user: [row for *_, row in sorted(rows)[-limit:]] for user, rows in users.items()}


EVENTS = random_log([7, -3, 42, 99], 300)
"""The log of the ``prepared`` fixture."""
