"""A folder with the part of a prepared dataset that load tests read, and a service to load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pinrec_core.dataset.catalogue import write_catalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.ids import IdKind, item_keys
from tests.client.conftest import integer_service  # noqa: F401  (a fixture)

NUM_ITEMS = 600
NUM_USERS = 50

WriteDataset = Callable[..., Path]


@pytest.fixture
def write_dataset(tmp_path: Path) -> WriteDataset:
    """Writes ``dataset.json``, ``catalogue.arrow`` and ``events/`` with ids of either kind."""

    def write(
        kind: IdKind = IdKind.INT, *, surfaces: tuple[str, ...] = ("", "home", "search"), title: str = "a title"
    ) -> Path:
        item_ids = np.array([f"i{n}" if kind is IdKind.STRING else n for n in range(NUM_ITEMS)])
        user_ids = [f"u{n}" if kind is IdKind.STRING else n for n in range(NUM_USERS)]
        DatasetManifest(
            name="small",
            user_id_kind=kind,
            item_id_kind=kind,
            outcomes=("like", "save"),
            query_actions=(),
            ignored_actions=(),
            surfaces=surfaces,
            feature_width=4,
            feature_space="hashed_ngram:4+vector:0",
            text_encoder="hashed_ngram:4",
            num_items=NUM_ITEMS,
            num_users=NUM_USERS,
            num_events=NUM_USERS,
            outcome_share=(0.5, 0.5),
            first_timestamp=0,
            last_timestamp=1,
        ).save(tmp_path)
        write_catalogue(
            tmp_path,
            item_key=item_keys(item_ids, kind),
            item_id=pa.array(item_ids.tolist()),
            title=pa.array([title] * NUM_ITEMS),
            categories=pa.array([""] * NUM_ITEMS),
            feature=np.zeros((NUM_ITEMS, 4), np.int8),
            scale=np.zeros(NUM_ITEMS, np.float32),
        )
        (tmp_path / "events").mkdir()
        keys = item_keys(item_ids, kind)
        for part in range(2):  # both files hold every user; in the second one the first user has half of the events
            users = user_ids + part * NUM_USERS * user_ids[:1]
            events = pa.table(
                {
                    "user_id": users,
                    "item_key": [int(keys[n % NUM_ITEMS]) for n in range(len(users))],
                    "item_type": [int(n % 5 == 4) for n in range(len(users))],  # one in five is a search
                    "action": ["save"] * len(users),
                    "surface": [surfaces[-1]] * len(users),
                }
            )
            pq.write_table(events, tmp_path / "events" / f"part-{part}.parquet")
        return tmp_path

    return write


@pytest.fixture
def write_slo(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a file of objectives."""

    def write(text: str = "") -> Path:
        path = tmp_path / "slo.toml"
        path.write_text(text, "utf-8")
        return path

    return write

    return write
