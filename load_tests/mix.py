"""The mix of requests: which types there are, how a request of each is made, and how often each comes.

The weights are in a TOML file: ``mix.toml`` and ``mix_log.toml`` here, or one of the user's own.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

from pinrec_client import Event, RecommendRequest
from pydantic import Field

from load_tests.workload import Draw, Workload
from pinrec_core.errors import ConfigError, require
from pinrec_core.validation import OneOf, check, from_plain, read_toml, validated

BUILT_IN = {
    "uniform": Path(__file__).with_name("mix.toml"),
    "log": Path(__file__).with_name("mix_log.toml"),
}

SEARCH, SURFACE, LOG_EVENT = "search", "surface", "log event"


@dataclass(frozen=True, slots=True)
class RequestType:
    """One type of request: its name in the mix and in the report, how it is made, and for which datasets."""

    name: str
    make: Callable[[Workload, Random], RecommendRequest | Event]
    possible: Callable[[Workload], bool] = lambda _: True


def _known(num_items: int) -> Callable[[Workload, Random], RecommendRequest]:
    return lambda w, random: w.request(w.visit(random), num_items=num_items)


def _cold(w: Workload, random: Random) -> RecommendRequest:
    return w.request(w.visit(random), user_id=w.cold_user(random), num_items=100)


def _surface(w: Workload, random: Random) -> RecommendRequest:
    return w.request(w.visit(random), num_items=100, surface=random.choice(w.surfaces))


def _budget(w: Workload, random: Random) -> RecommendRequest:
    return w.request(w.visit(random), num_items=100, budget=w.budget(random))


def _search(w: Workload, random: Random) -> RecommendRequest:
    return w.request(w.visit(random, searching=True), num_items=100, query=random.choice(w.texts))


def _unseen(w: Workload, random: Random) -> RecommendRequest:
    return w.request(w.visit(random), num_items=100, exclude_seen=True)


def _event(w: Workload, random: Random) -> Event:
    visit = w.visit(random)
    return Event(
        user_id=visit.user_id,
        action=visit.action,
        timestamp=int(time.time()),
        item_id=visit.item_id,
        surface=visit.surface,
        event_id=uuid.UUID(int=random.getrandbits(128)).hex,
    )


REQUEST_TYPES = {
    kind.name: kind
    for kind in (
        RequestType("known user, 10 items", _known(10)),
        RequestType("known user, 100 items", _known(100)),
        RequestType("known user, 500 items", _known(500)),
        RequestType("cold user", _cold),
        RequestType(SURFACE, _surface, lambda w: bool(w.surfaces)),
        RequestType("budget", _budget),
        RequestType(SEARCH, _search, lambda w: bool(w.texts)),
        RequestType("exclude seen", _unseen),
        RequestType(LOG_EVENT, _event),
    )
}
"""All request types by name."""


@validated(ConfigError)
class Mix:
    """How often each request type comes, relative to the others, and how users are drawn.

    With ``draw="log"`` the weight of a search follows from the log and is not given.
    """

    draw: OneOf[Draw]
    weights: dict[str, Annotated[float, Field(ge=0)]]

    def __post_init__(self) -> None:
        unknown = sorted(set(self.weights) - set(REQUEST_TYPES))
        check(not unknown, "weights", unknown, f"only {sorted(REQUEST_TYPES)}")
        check(self.draw is Draw.UNIFORM or SEARCH not in self.weights, "weights", SEARCH,
              'no weight of it with draw="log": its share is that of the log')  # fmt: skip
        check(sum(self.weights.values()) > 0, "weights", self.weights, "at least one weight above 0")

    @staticmethod
    def load(name: str) -> Mix:
        """One that is built in, by its name, or that of a TOML file. Raises ``ConfigError``."""
        path = BUILT_IN.get(name, Path(name))
        what = f"a mix of requests, or one of {sorted(BUILT_IN)}"
        return from_plain(Mix, read_toml(path, error=ConfigError, what=what), error=ConfigError, source=path)

    def weighted_types(self, workload: Workload, *, writes: bool) -> dict[RequestType, float]:
        """The request types that are possible with this dataset; those that write events only if ``writes`` is set.

        Raises ``ConfigError`` when none is left.
        """
        weights = dict(self.weights)
        if workload.draw is Draw.LOG:
            reads = sum(weight for name, weight in weights.items() if name != LOG_EVENT)
            # Of all reads with the searches, the searches are to be this share.
            weights[SEARCH] = reads * workload.search_share / max(1 - workload.search_share, 1e-9)
        chosen = {
            REQUEST_TYPES[name]: weight
            for name, weight in weights.items()
            if weight > 0 and REQUEST_TYPES[name].possible(workload) and (writes or name != LOG_EVENT)
        }
        require(bool(chosen), "weights", self.weights, "a request type that this dataset allows", error=ConfigError)
        return chosen
