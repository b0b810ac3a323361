"""Where the INT8 features of a history live: in the view, beside each interaction, or once per item in the release.

``python -m benchmarks.signals.feature_place`` makes up users and a catalogue, whose items are drawn by a power law, and
prints, for each feature width F, the bytes of the sequences and of the view, and the milliseconds of one fetch: read
a user's history, decode it, and return its features as fp32.

* *in view*: the history as it is stored now, with the features.
* *in release*: the view has keys only; features come from the memory-mapped catalogue, by a binary search of the keys.
* *by row*: the same with the position in the catalogue instead of a key. It needs a view for each release.

The fetch of one user is long (1,024 interactions); the others have 64. All files are in the page cache. Queries are not
in the catalogue: with features in the release, their vectors need a table of their own, or the encoder at each fetch.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rocksdict import Rdict

from benchmarks.machine import machine_card
from benchmarks.timing import time_together
from pinrec_core.dataset.catalogue import ItemCatalogue, write_catalogue
from pinrec_core.history import DTYPES, History
from signal_service.batch_view import view_options
from signal_service.history_codec import decode_history, encode_history

USERS, LENGTH, LONG = 20_000, 64, 1_024
ITEMS = 200_000
WIDTHS = (64, 128)
SECONDS = 3.0


def main() -> None:
    print(json.dumps(asdict(machine_card())))
    print(f"{USERS:,} users of {LENGTH} interactions, {ITEMS:,} items; a fetch has {LONG:,} interactions")
    print(
        f"{'F':>4} {'place':<11} {'sequences MiB':>13} {'view MiB':>9} {'bytes/event':>11} {'p50 ms':>7} {'p99 ms':>7}"
    )
    rows = []
    for F in WIDTHS:
        with tempfile.TemporaryDirectory(prefix="pinrec-feature-place-") as folder:
            for row in _measure(F, Path(folder)):
                print(
                    f"{F:>4} {row['place']:<11} {row['sequences_mib']:>13.1f} {row['view_mib']:>9.1f} "
                    f"{row['bytes_per_event']:>11.1f} {row['median_ms']:>7.3f} {row['p99_ms']:>7.3f}"
                )
                rows.append(row)
    print(json.dumps(rows))


def _measure(F: int, folder: Path) -> list[dict[str, float | str]]:
    random = np.random.default_rng(0)
    keys = np.sort(random.choice(1 << 62, ITEMS, replace=False))
    write_catalogue(
        folder, item_key=keys, item_id=pa.array(keys), title=pa.array([""] * ITEMS), categories=pa.array([""] * ITEMS),
        feature=random.integers(-127, 128, (ITEMS, F), np.int8), scale=random.random(ITEMS, np.float32),
    )  # fmt: skip
    catalogue = ItemCatalogue.open(folder)
    lengths = np.full(USERS + 1, LENGTH)
    lengths[-1] = LONG
    popular = random.permutation(ITEMS)  # popularity has nothing to do with the key
    drawn = np.minimum(random.zipf(1.1, int(lengths.sum())) - 1, ITEMS - 1)
    rows = popular[np.where(drawn == ITEMS - 1, random.integers(0, ITEMS, len(drawn)), drawn)]
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    plain = {
        "item_key": keys[rows], "item_type": np.zeros(len(rows), np.uint8), "outcome": random.integers(0, 3, len(rows)),
        "surface": random.integers(0, 4, len(rows)), "timestamp": np.sort(random.integers(1 << 30, 1 << 31, len(rows))),
    }  # fmt: skip
    columns = {name: values.astype(DTYPES[name]) for name, values in plain.items()}
    no_features = {"feature": np.empty((len(rows), 0), np.int8), "scale": np.zeros(len(rows), np.float32)}
    stored = {
        "in view": columns | {"feature": catalogue.feature[rows], "scale": catalogue.scale[rows]},
        "in release": columns | no_features,
        "by row": columns | no_features | {"item_key": rows.astype(np.int64)},
    }
    sizes = {place: _write(folder / place, values, bounds) for place, values in stored.items()}
    with (
        closing(Rdict(str(folder / "in view" / "view"), view_options())) as with_features,
        closing(Rdict(str(folder / "in release" / "view"), view_options())) as by_key,
        closing(Rdict(str(folder / "by row" / "view"), view_options())) as by_row,
    ):
        user = _key(USERS)

        def joined(rows_of: Callable[[History], np.ndarray], database: Rdict) -> np.ndarray:
            at = rows_of(_stored(database, user))
            return catalogue.feature[at] * catalogue.scale[at, None]

        def read() -> np.ndarray:
            history = _stored(with_features, user)
            return history.feature * history.scale[:, None]

        fetches: dict[str, Callable[[], np.ndarray]] = {
            "in view": read,
            "in release": lambda: joined(lambda history: catalogue.rows_of(history.item_key), by_key),
            "by row": lambda: joined(lambda history: history.item_key, by_row),
        }
        for fetch in fetches.values():
            np.testing.assert_array_equal(fetch(), fetches["in view"]())
        timings = time_together(fetches, seconds=SECONDS)
    return [
        {
            "F": F, "place": place, "sequences_mib": sequences / 2**20, "view_mib": view / 2**20,
            "bytes_per_event": view / len(rows), "median_ms": timings[place].median_ms, "p99_ms": timings[place].p99_ms,
        }
        for place, (sequences, view) in sizes.items()
    ]  # fmt: skip


def _write(folder: Path, columns: dict[str, np.ndarray], bounds: np.ndarray) -> tuple[int, int]:
    """Write sequences and view of all users. Returns the bytes of both."""
    folder.mkdir()
    offsets = pa.array(bounds, pa.int32())
    F = columns["feature"].shape[1]
    table = {}
    for name, values in columns.items():
        if name == "feature":
            packed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(F), len(values), [None, pa.py_buffer(values)])
            flat = packed.cast(pa.binary())
        else:
            flat = pa.array(values)
        if F or name not in ("feature", "scale"):
            table[name] = pa.ListArray.from_arrays(offsets, flat)
    pq.write_table(pa.table(table), folder / "sequences.parquet", compression="zstd")
    with closing(Rdict(str(folder / "view"), view_options())) as database:
        for user in range(len(bounds) - 1):
            span = slice(bounds[user], bounds[user + 1])
            history = History(**{name: values[span] for name, values in columns.items()})
            database[_key(user)] = encode_history(history)
        database.flush()
        database.compact_range(None, None)
    view = sum(path.stat().st_size for path in (folder / "view").glob("*.sst"))
    return (folder / "sequences.parquet").stat().st_size, view


def _stored(database: Rdict, key: bytes) -> History:
    data = database[key]
    assert data is not None
    return decode_history(data)


def _key(user: int) -> bytes:
    return user.to_bytes(8, "big")


if __name__ == "__main__":
    main()
