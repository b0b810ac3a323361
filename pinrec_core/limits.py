"""Every bound that a caller of the service can run into: one table, from which the errors and the documentation come.

A limit is checked before work that grows with what it bounds: the bytes of a text before it is decoded or hashed,
the number of events before any of them is looked at. ``TABLE`` lists all of them; docs/operate/limits.md shows it.
Bounds that a release sets itself, such as ``max_num_items``, are named in the table and checked against the release.

This module knows no stage. Who checks what: ``signal_service.request`` and ``signal_service.ingest_stage`` what callers
send, ``pinrec_core.stages.bounds`` what passes between the stages, because those models can be called as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pinrec_core.contract import BUDGET_TOLERANCE, MAX_STRENGTH
from pinrec_core.errors import InvalidRequestError

BATCH = 32
"""The most requests that a stage is given at once: ``max_batch_size`` of every ``config.pbtxt``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A bound on one or more fields of a request: how much of ``unit`` each may have, or which values it may take."""

    fields: tuple[str, ...]
    unit: str
    most: int
    least: int = 0
    why: str

    def check(self, got: int, field: str) -> None:
        """Raises ``InvalidRequestError`` unless ``got`` of the unit is allowed."""
        _check(got, field, self.unit, self.least, self.most)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseLimit:
    """The same where the release decides: ``most`` says how, and whoever checks it gives the number."""

    fields: tuple[str, ...]
    unit: str
    most: str
    least: int = 0
    why: str

    def check(self, got: int, field: str, most: int) -> None:
        """Raises ``InvalidRequestError`` unless ``got`` of the unit is allowed."""
        _check(got, field, self.unit, self.least, most)


def _check(got: int, field: str, unit: str, least: int, most: int) -> None:
    if not least <= got <= most:
        expected = f"{least} to {most}" if least else f"at most {most}"
        raise InvalidRequestError(f"{field} has {got} {unit}: expected {expected}")


ID = Limit(
    fields=("user_id", "event_user_id", "event_item_id"), unit="bytes", most=1024,
    why="of a string id; keys of the real-time store contain it, and preparation sets rows with a longer one aside",
)  # fmt: skip
NAME = Limit(
    fields=("surface", "budget_outcome", "event_action", "event_surface"), unit="bytes", most=1024,
    why="no outcome, action or surface of a dataset has a longer name",
)  # fmt: skip
QUERY = Limit(
    fields=("query", "event_query"), unit="bytes", most=4096, why="the time to encode a text grows with its length"
)
FEATURE_VALUE = Limit(
    fields=("query_embedding",), unit="magnitude of a value", most=1000,
    why="it has exactly `feature_width` values; content vectors are made of parts of length 1, and far larger values "
    "overflow in the model, in FP16 first",
)  # fmt: skip
NUM_ITEMS = ReleaseLimit(
    fields=("num_items",), unit="items", least=1, most="`max_num_items` of the release",
    why="the work of retrieval and the size of the answer grow with it",
)  # fmt: skip
BUDGET = ReleaseLimit(
    fields=("budget", "budget_outcome"), unit="entries", most="the number of outcomes of the release",
    why=f"each outcome at most once; the weights are at least 0 and sum to 1, within {BUDGET_TOLERANCE:g}",
)  # fmt: skip
REQUEST_TIME = Limit(
    fields=("request_time",), unit="Unix seconds", least=1, most=253_402_300_799,
    why="the end of the year 9999; today's time in milliseconds is larger",
)  # fmt: skip
SEED = Limit(fields=("seed",), unit="as a number", most=(1 << 63) - 1, why="what INT64 holds, without negative numbers")
STRENGTH = Limit(
    fields=("strength",), unit="as a number", most=MAX_STRENGTH,
    why="1 is as trained; further away lies what nothing was trained on",
)  # fmt: skip
EVENTS = Limit(
    fields=("event_id",), unit="events", least=1, most=10_000, why="per call; they are stored in one write, all or none"
)
EVENT_ID = Limit(fields=("event_id",), unit="bytes", least=1, most=256, why="keys of the real-time store contain it")
EVENT_TIME = ReleaseLimit(
    fields=("event_timestamp",), unit="Unix seconds", least=1, most="300 s ahead of the server's clock",
    why="an event of the future is a wrong clock, or a time in milliseconds; with `--max-lateness` there is a bound "
    "behind the clock, too",
)  # fmt: skip
CLOCK_SKEW_SECONDS = 300
"""How far an event may be dated ahead of the server's clock (``EVENT_TIME``)."""
FORGETS = Limit(
    fields=("event_action",), unit="users to forget", most=32,
    why="per call; each is written to the disk by itself, and other events wait for it",
)  # fmt: skip
TEXTS = Limit(
    fields=("any tensor of texts",), unit="texts", most=EVENTS.most,
    why="each becomes an object of its own before the request is looked at, which takes most of a second for a million",
)  # fmt: skip
REQUEST = Limit(
    fields=("request",), unit="bytes", most=1 << 20,
    why="the whole message, or its tensors together where there is no front; room for 10,000 events of 100 bytes each",
)  # fmt: skip
HISTORY = ReleaseLimit(
    fields=("packed_request", "history_item_key"), unit="positions",
    most=f"`max_history` of the release; {BATCH} times that for `history_item_key`",
    why="the memory of the decoder grows with it; an ID embedder of its own is sent the keys of a whole batch",
)  # fmt: skip
EMBEDDINGS = ReleaseLimit(
    fields=("retrieval_plan",), unit="embeddings", least=1, most="steps × outcomes × offsets of the release",
    why="what the generator makes; each is one search of the index",
)  # fmt: skip
EXCLUSIONS = Limit(
    fields=("seen_item_key",), unit="items", most=65_536,
    why="with `exclude_seen`, of the newest that many interactions; the work of merging grows with it",
)  # fmt: skip
MESSAGE = Limit(
    fields=("error message",), unit="bytes", most=2048,
    why="of an answer; gRPC clients refuse headers of more than 8 KiB, in which the message is escaped",
)  # fmt: skip

ENTRANCES, BETWEEN_STAGES, ANSWERS = "what callers send", "what passes between the stages", "what callers get"
TABLE: Mapping[str, tuple[Limit | ReleaseLimit, ...]] = {
    ENTRANCES: (
        ID, NAME, QUERY, FEATURE_VALUE, NUM_ITEMS, BUDGET, REQUEST_TIME, SEED, STRENGTH, EVENTS, EVENT_ID,
        EVENT_TIME, FORGETS, TEXTS, REQUEST,
    ),
    BETWEEN_STAGES: (HISTORY, EMBEDDINGS, EXCLUSIONS),
    ANSWERS: (MESSAGE,),
}  # fmt: skip
"""All limits, by who meets them."""


def check_request_bytes(tensors: Mapping[str, np.ndarray]) -> None:
    """Raises ``InvalidRequestError`` where the tensors of one request have more bytes together than ``REQUEST``."""
    REQUEST.check(sum(map(_bytes, tensors.values())), "request")


def cut_message(message: str) -> str:
    """The message of an error, shortened to the bytes that ``MESSAGE`` allows in UTF-8."""
    raw = message.encode("utf-8", "backslashreplace")
    return message if len(raw) <= MESSAGE.most else raw[: MESSAGE.most - 3].decode("utf-8", "ignore") + "…"


def _bytes(values: np.ndarray) -> int:
    return sum(map(len, values.flat)) if values.dtype == np.object_ else values.nbytes
