"""Requests, events, answers and TLS settings.

Requests and events check themselves when they are made, so a malformed one is never sent. They check only what holds
for every release; the server checks the rest, such as whether an outcome or a surface exists.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pinrec_client.contract import BUDGET_TOLERANCE
from pinrec_client.errors import require

UserId = int | str
ItemId = int | str

_INT32_MAX = (1 << 31) - 1
_INT64_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecommendRequest:
    """A request for items for one user. For a field that is None the service uses its default.

    ``user_id`` is an integer, or a text where the ids of the release are strings; the service answers for users whom
    it does not know, too. ``num_items`` is the number of distinct items. ``budget`` maps outcomes to weights, which are
    finite, non-negative and sum to 1. ``surface`` is the place where the items will be shown. ``query`` (a text) or
    ``query_embedding`` (floats [F]) makes the request a search. ``exclude_seen`` leaves out the items that the user has
    interacted with. ``request_time`` is the Unix time, in seconds, as of which to answer. ``seed`` makes the sampling
    repeatable. ``strength`` is how strongly the outcomes of the budget steer what is generated: 0 not at all, 1 as the
    model was trained; by default as the release has calibrated it. Raises ``InvalidRequestError``.
    """

    user_id: UserId
    num_items: int | None = None
    budget: Mapping[str, float] | None = None
    surface: str | None = None
    query: str | None = None
    query_embedding: Sequence[float] | np.ndarray | None = None
    exclude_seen: bool | None = None
    request_time: int | None = None
    seed: int | None = None
    strength: float | None = None

    def __post_init__(self) -> None:
        _require_id("user_id", self.user_id)
        if self.num_items is not None:
            _require_int("num_items", self.num_items, 1, _INT32_MAX)
        if self.budget is not None:
            _require_budget(self.budget)
        if self.surface is not None:
            _require_text("surface", self.surface)
        if self.query is not None:
            _require_text("query", self.query, min_length=1)
        require(self.query is None or self.query_embedding is None, "query, query_embedding", self.query,
                "at most one of them")  # fmt: skip
        if self.query_embedding is not None:
            _require_embedding(self.query_embedding)
        require(isinstance(self.exclude_seen, (bool, np.bool_, type(None))), "exclude_seen", self.exclude_seen,
                "a boolean")  # fmt: skip
        if self.request_time is not None:
            _require_int("request_time", self.request_time, 1, _INT64_MAX)
        if self.seed is not None:
            _require_int("seed", self.seed, 0, _INT64_MAX)
        if self.strength is not None:
            finite = isinstance(self.strength, (int, float, np.number)) and math.isfinite(self.strength)
            require(finite and self.strength >= 0, "strength", self.strength, "a finite number of at least 0")


@dataclass(frozen=True, slots=True)
class RecommendedItem:
    """One item of an answer.

    ``score`` orders the items of one answer; the scores of other releases or settings are not comparable with it.
    ``outcome`` is the one whose share of the budget the item counts towards. ``rank`` counts from 1.
    """

    item_id: ItemId
    score: float
    outcome: str
    rank: int


@dataclass(frozen=True, slots=True)
class Recommendations:
    """An answer: distinct items in rank order, and the id of the release that chose them.

    ``history_source`` says where the user's interactions came from: ``batch``, ``realtime``, ``both``, or ``none`` of a
    user of whom nothing is known. ``history_unavailable`` names the part that could not be read, so that the items
    are less personal than they could be: ``realtime``, ``batch`` or ``both``, and ``""`` where nothing was missing.
    """

    release: str
    items: tuple[RecommendedItem, ...]
    history_source: str
    history_unavailable: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that a user did: an action on an item, or a search (with a query and no item).

    ``timestamp`` is in Unix seconds. User, timestamp and ``event_id`` together identify an event, and the service
    stores one copy of it; therefore it is safe to write the same ``Event`` again. Raises ``InvalidRequestError``.
    """

    user_id: UserId
    action: str
    timestamp: int
    item_id: ItemId | None = None
    query: str | None = None
    surface: str = ""
    event_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        _require_id("user_id", self.user_id)
        for name in ("action", "event_id"):
            _require_text(name, getattr(self, name), min_length=1)
        _require_int("timestamp", self.timestamp, 1, _INT64_MAX)
        if self.item_id is not None:
            _require_id("item_id", self.item_id)
        require((self.item_id is None) != (self.query is None), "item_id, query", (self.item_id, self.query),
                "exactly one of them, an action has an item and a search has a text")  # fmt: skip
        if self.query is not None:
            _require_text("query", self.query, min_length=1)
        _require_text("surface", self.surface)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS settings of the channel. Each field is the path of a PEM file.

    Without ``root_certificates``, gRPC uses the ones that it comes with. ``private_key`` and ``certificate_chain``
    identify the client together, for mutual TLS. Raises ``InvalidRequestError`` when a file does not exist, or one of
    the two is missing.
    """

    root_certificates: str | None = None
    private_key: str | None = None
    certificate_chain: str | None = None

    def __post_init__(self) -> None:
        for name in ("root_certificates", "certificate_chain", "private_key"):
            path = getattr(self, name)
            require(path is None or os.path.isfile(path), name, path, "a PEM file")
        alone = (self.private_key is None) != (self.certificate_chain is None)
        require(not alone, "certificate_chain", self.certificate_chain, "it and private_key together, or neither")


def check_forget(user_id: UserId, at: int) -> None:
    """Raises ``InvalidRequestError`` unless a user of this id can be forgotten up to and including ``at``."""
    _require_id("user_id", user_id)
    _require_int("at", at, 1, _INT64_MAX)


def _is_int(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _require_int(name: str, value: object, low: int, high: int) -> None:
    require(_is_int(value) and low <= value <= high, name, value, f"an integer from {low} to {high}")  # type: ignore[operator]


def _require_text(name: str, value: object, *, min_length: int = 0) -> None:
    text = isinstance(value, str) and len(value) >= min_length
    require(text, name, value, "a non-empty text" if min_length else "a text")
    # A lone surrogate, for example from a badly decoded argument, cannot be encoded in UTF-8.
    require(not any("\ud800" <= c <= "\udfff" for c in str(value)), name, value, "text that UTF-8 can hold")


def _require_id(name: str, value: object) -> None:
    if isinstance(value, str):
        _require_text(name, value, min_length=1)
    else:
        require(_is_int(value) and -_INT64_MAX - 1 <= value <= _INT64_MAX, name, value,  # type: ignore[operator]
                "a 64-bit integer, or a text where the release's ids are strings")  # fmt: skip


def _require_budget(budget: Mapping[str, float]) -> None:
    require(isinstance(budget, Mapping) and len(budget) > 0, "budget", budget, "a weight for at least one outcome")
    for outcome, weight in budget.items():
        finite = isinstance(weight, (int, float, np.number)) and math.isfinite(weight)
        require(finite and weight >= 0, f"budget[{outcome!r}]", weight, "a finite weight of at least 0")
    total = float(sum(budget.values()))
    require(
        abs(total - 1) <= BUDGET_TOLERANCE, "budget", dict(budget), f"weights that sum to 1, these sum to {total:g}"
    )


def _require_embedding(query_embedding: Sequence[float] | np.ndarray) -> None:
    values = np.asarray(query_embedding)
    require(values.ndim == 1 and values.size > 0 and values.dtype.kind in "fiu", "query_embedding shape, type",
            (values.shape, str(values.dtype)), "numbers in one dimension")  # fmt: skip
    require(bool(np.isfinite(values).all()), "query_embedding", "non-finite values", "finite numbers")
