"""Makes the requests of a load test from a prepared dataset: a sample of its users and items, and the mix of requests.

Knows nothing of Locust, of rates or of the network.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.dataset as pads
from pinrec_client import Event, RecommendRequest

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import DataError
from pinrec_core.ids import IdKind

RESERVOIR = 10_000  # size of the uniform samples of users and of items

USER_FOLDERS = ("signals/sequences", "events")
"""Folders of a dataset that hold user ids. The first one that exists is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A sample of one dataset.

    ``texts`` become search queries: titles of items, or their categories when there is no title. It is empty when the
    items have neither. ``num_items`` is the size of the whole catalogue.
    """

    user_id_kind: IdKind
    user_ids: list[int | str]
    item_ids: list[int | str]
    texts: list[str]
    outcomes: tuple[str, ...]
    surfaces: tuple[str, ...]
    num_items: int

    @staticmethod
    @cache
    def load(folder: Path, seed: int = 0) -> Workload:
        """Read a prepared dataset's folder. Raises ``DataError``."""
        manifest = DatasetManifest.load(folder)
        catalogue = ItemCatalogue.open(folder)
        generator = np.random.default_rng(seed)
        rows = generator.choice(len(catalogue), min(RESERVOIR, len(catalogue)), replace=False)
        texts = [catalogue.title(int(row)) or catalogue.categories(int(row)) or "" for row in rows]
        return Workload(
            user_id_kind=manifest.user_id_kind,
            user_ids=_sample_users(folder, generator),
            item_ids=catalogue.item_ids(rows).tolist(),
            texts=[text for text in texts if text.strip()],
            outcomes=manifest.outcomes,
            surfaces=manifest.surfaces[1:],
            num_items=len(catalogue),
        )

    def known_user(self, random: Random) -> int | str:
        return random.choice(self.user_ids)

    def cold_user(self, random: Random) -> int | str:
        """A user whom no log holds: a large integer, or a text that starts with ``load-test-``."""
        number = random.getrandbits(61)
        return f"load-test-{number:x}" if self.user_id_kind is IdKind.STRING else (1 << 62) + number

    def budget(self, random: Random) -> dict[str, float]:
        """Weights drawn uniformly from all budgets."""
        weight = [random.expovariate(1) for _ in self.outcomes]
        return {outcome: w / sum(weight) for outcome, w in zip(self.outcomes, weight, strict=True)}


def _sample_users(folder: Path, generator: np.random.Generator) -> list[int | str]:
    """A uniform sample of rows without replacement, in one pass. Raises ``DataError`` when there is no user.

    Each row draws a random number, and the rows with the smallest ones are kept.
    """
    source = next((folder / name for name in USER_FOLDERS if (folder / name).is_dir()), None)
    if source is None:
        raise DataError(f"{folder}: expected one of {USER_FOLDERS}; run `pinrec prepare` first")
    files = sorted(source.glob("part-*.parquet"))
    kept = np.empty(0, object)
    rank = np.empty(0)
    for batch in pads.dataset(files, format="parquet").to_batches(columns=["user_id"]):
        users = batch.column("user_id").to_numpy(zero_copy_only=False).astype(object)
        kept, rank = np.concatenate([kept, users]), np.concatenate([rank, generator.random(len(users))])
        smallest = np.argsort(rank)[:RESERVOIR]
        kept, rank = kept[smallest], rank[smallest]
    if not len(kept):
        raise DataError(f"{source}: expected at least one user")
    return kept.tolist()


@dataclass(frozen=True, slots=True)
class RequestType:
    """One line of the mix: its name in the report, its weight, how a request of it is made, and for which datasets."""

    name: str
    weight: int
    make: Callable[[Workload, Random], RecommendRequest | Event]
    possible: Callable[[Workload], bool] = lambda _: True


def _known(num_items: int) -> Callable[[Workload, Random], RecommendRequest]:
    return lambda w, random: RecommendRequest(user_id=w.known_user(random), num_items=num_items)


def _cold(w: Workload, random: Random) -> RecommendRequest:
    return RecommendRequest(user_id=w.cold_user(random), num_items=100)


def _surface(w: Workload, random: Random) -> RecommendRequest:
    return RecommendRequest(user_id=w.known_user(random), num_items=100, surface=random.choice(w.surfaces))


def _budget(w: Workload, random: Random) -> RecommendRequest:
    return RecommendRequest(user_id=w.known_user(random), num_items=100, budget=w.budget(random))


def _search(w: Workload, random: Random) -> RecommendRequest:
    return RecommendRequest(user_id=w.known_user(random), num_items=100, query=random.choice(w.texts))


def _unseen(w: Workload, random: Random) -> RecommendRequest:
    return RecommendRequest(user_id=w.known_user(random), num_items=100, exclude_seen=True)


def _event(w: Workload, random: Random) -> Event:
    return Event(
        user_id=w.known_user(random),
        action=random.choice(w.outcomes),
        timestamp=int(time.time()),
        item_id=random.choice(w.item_ids),
        surface=random.choice(w.surfaces) if w.surfaces else "",
        event_id=uuid.UUID(int=random.getrandbits(128)).hex,
    )


MIX = (
    RequestType("known user, 10 items", 25, _known(10)),
    RequestType("known user, 100 items", 20, _known(100)),
    RequestType("known user, 500 items", 5, _known(500)),
    RequestType("cold user", 10, _cold),
    RequestType("surface", 10, _surface, lambda w: bool(w.surfaces)),
    RequestType("budget", 10, _budget),
    RequestType("search", 5, _search, lambda w: bool(w.texts)),
    RequestType("exclude seen", 5, _unseen),
    RequestType("log event", 10, _event),
)
"""All request types. Their weights are relative to one another."""

WRITES = frozenset({"log event"})


def mix_for(workload: Workload, *, writes: bool) -> tuple[RequestType, ...]:
    """The request types that are possible with this dataset; those that write events only if ``writes`` is set."""
    return tuple(t for t in MIX if t.possible(workload) and (writes or t.name not in WRITES))
