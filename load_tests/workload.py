"""What requests are made of: a sample of a prepared dataset's users, items and events.

Knows nothing of the mix, of Locust, of rates or of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from pinrec_client import RecommendRequest

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import DataError
from pinrec_core.history import ItemType
from pinrec_core.ids import IdKind

RESERVOIR = 10_000  # size of the uniform samples of users and of items
EVENT_RESERVOIR = 100_000  # size of the uniform sample of events

USER_FOLDERS = ("signals/sequences", "events")
"""Folders of a dataset that hold user ids. The first one that exists is read."""


class Draw(StrEnum):
    """How the user of a request is drawn."""

    UNIFORM = "uniform"  # every user as often as any other
    LOG = "log"  # as often as in the log: a user with ten times the events comes ten times as often


@dataclass(frozen=True, slots=True)
class Visit:
    """Who asks, and what is done if the request writes an event. ``surface`` is "" where it is unknown."""

    user_id: int | str
    action: str
    item_id: int | str
    surface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A sample of one dataset.

    ``texts`` become search queries: titles of items, or their categories when there is no title. It is empty when the
    items have neither. ``num_items`` is the size of the whole catalogue. ``visits`` are drawn from the log's events on
    items, and ``searchers`` from its search queries. Both are empty unless ``draw`` is ``Draw.LOG``.
    """

    user_id_kind: IdKind
    user_ids: list[int | str]
    item_ids: list[int | str]
    texts: list[str]
    outcomes: tuple[str, ...]
    surfaces: tuple[str, ...]
    num_items: int
    draw: Draw = Draw.UNIFORM
    visits: Sequence[Visit] = ()
    searchers: Sequence[Visit] = ()

    @staticmethod
    @cache
    def load(folder: Path, draw: Draw = Draw.UNIFORM, seed: int = 0) -> Workload:
        """Read a prepared dataset's folder. Raises ``DataError``."""
        manifest = DatasetManifest.load(folder)
        catalogue = ItemCatalogue.open(folder)
        generator = np.random.default_rng(seed)
        rows = generator.choice(len(catalogue), min(RESERVOIR, len(catalogue)), replace=False)
        texts = [catalogue.title(int(row)) or catalogue.categories(int(row)) or "" for row in rows]
        visits, searchers = _visits(folder, manifest, catalogue, generator) if draw is Draw.LOG else ([], [])
        return Workload(
            user_id_kind=manifest.user_id_kind,
            user_ids=_sample_users(folder, generator),
            item_ids=catalogue.item_ids(rows).tolist(),
            texts=[text for text in texts if text.strip()],
            outcomes=manifest.outcomes,
            surfaces=manifest.surfaces[1:],
            num_items=len(catalogue),
            draw=draw,
            visits=visits,
            searchers=searchers,
        )

    @property
    def search_share(self) -> float:
        """The share of search queries among the events of the log; 0 where the log was not read."""
        events = len(self.visits) + len(self.searchers)
        return len(self.searchers) / events if events else 0.0

    def visit(self, random: Random, *, searching: bool = False) -> Visit:
        """A user who asks; with ``searching``, one who searches, where the log says who does."""
        if self.draw is Draw.LOG:
            return random.choice(self.searchers if searching and self.searchers else self.visits)
        return Visit(
            user_id=random.choice(self.user_ids),
            action=random.choice(self.outcomes),
            item_id=random.choice(self.item_ids),
            surface=random.choice(self.surfaces) if self.surfaces else "",
        )

    def request(self, visit: Visit, **fields: Any) -> RecommendRequest:
        """A request of the visit's user. It has a surface if the log says which, or if ``fields`` has one."""
        surface = visit.surface or None if self.draw is Draw.LOG else None
        return RecommendRequest(**{"user_id": visit.user_id, "surface": surface} | fields)

    def cold_user(self, random: Random) -> int | str:
        """A user whom no log holds: a large integer, or a text that starts with ``load-test-``."""
        number = random.getrandbits(61)
        return f"load-test-{number:x}" if self.user_id_kind is IdKind.STRING else (1 << 62) + number

    def budget(self, random: Random) -> dict[str, float]:
        """Weights drawn uniformly from all budgets."""
        weight = [random.expovariate(1) for _ in self.outcomes]
        return {outcome: w / sum(weight) for outcome, w in zip(self.outcomes, weight, strict=True)}


def _sample_users(folder: Path, generator: np.random.Generator) -> list[int | str]:
    source = next((folder / name for name in USER_FOLDERS if (folder / name).is_dir()), None)
    if source is None:
        raise DataError(f"{folder}: expected one of {USER_FOLDERS}; run `pinrec prepare` first")
    users = _sample_rows(source, ["user_id"], RESERVOIR, generator)["user_id"].to_pylist()
    if not users:
        raise DataError(f"{source}: expected at least one user")
    return users


def _visits(
    folder: Path, manifest: DatasetManifest, catalogue: ItemCatalogue, generator: np.random.Generator
) -> tuple[list[Visit], list[Visit]]:
    """Visits from the events on items, and from the search queries, of a sample of the log. Raises ``DataError``.

    The item of a query, and one that the catalogue lacks, is replaced by any item. So is an action that is no outcome.
    """
    columns = ["user_id", "item_key", "item_type", "action", "surface"]
    if not (folder / "events").is_dir():
        raise DataError(f"{folder / 'events'}: expected the events of a prepared dataset, from which `--mix log` draws")
    events = _sample_rows(folder / "events", columns, EVENT_RESERVOIR, generator)
    row = catalogue.rows_of(events["item_key"].to_numpy())
    row = np.where(row < 0, generator.integers(len(catalogue), size=len(row)), row)
    visits: list[Visit] = []
    searchers: list[Visit] = []
    fields = (events[name].to_pylist() for name in ("user_id", "item_type", "action", "surface"))
    for (user, kind, action, surface), item in zip(zip(*fields, strict=True), catalogue.item_ids(row), strict=True):
        known_action = action if action in manifest.outcomes else manifest.outcomes[0]
        visit = Visit(user_id=user, action=known_action, item_id=item, surface=surface)
        (searchers if kind == ItemType.QUERY else visits).append(visit)
    if not visits:
        raise DataError(f"{folder / 'events'}: expected at least one event on an item")
    return visits, searchers


def _sample_rows(folder: Path, columns: list[str], size: int, generator: np.random.Generator) -> pa.Table:
    """A uniform sample of rows without replacement, in one pass. Raises ``DataError`` for files that cannot be read.

    Each row draws a random number, and the rows with the smallest ones are kept.
    """
    kept: pa.Table | None = None
    rank = np.empty(0)
    try:
        for batch in pads.dataset(sorted(folder.glob("part-*.parquet")), format="parquet").to_batches(columns=columns):
            table = pa.Table.from_batches([batch])
            kept = table if kept is None else pa.concat_tables([kept, table])
            rank = np.concatenate([rank, generator.random(len(table))])
            smallest = np.argsort(rank)[:size]
            kept, rank = kept.take(smallest), rank[smallest]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{folder}: expected readable parquet files with {columns}, {error}") from error
    if kept is None:
        raise DataError(f"{folder}: expected part-*.parquet files; run `pinrec prepare` first")
    return kept.combine_chunks()
