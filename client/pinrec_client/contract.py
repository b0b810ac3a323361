"""The models and tensors that the client uses: their names and element types.

This package stands alone and cannot import the server's contract; a test compares the two. A message carries one
request, so every tensor is [1, n].
"""

from __future__ import annotations

ENSEMBLE = "pinrec"
INGEST = "signal_ingest"

ID = "ID"
"""Stands for INT64, or for BYTES where the ids of a release are strings. The Python type of an id decides which of the
two is sent; the server refuses the wrong one."""

REQUEST: dict[str, str] = {
    "user_id": ID,
    "num_items": "INT32",
    "surface": "BYTES",
    "budget": "FP32",
    "budget_outcome": "BYTES",
    "query": "BYTES",
    "query_embedding": "FP32",
    "exclude_seen": "BOOL",
    "request_time": "INT64",
    "seed": "INT64",
    "strength": "FP32",
}

RESPONSE: dict[str, str] = {
    "item_id": ID,
    "score": "FP32",
    "outcome": "BYTES",
    "release": "BYTES",
    "history_source": "BYTES",
}

EVENTS: dict[str, str] = {
    "event_id": "BYTES",
    "event_user_id": ID,
    "event_item_id": ID,
    "event_action": "BYTES",
    "event_timestamp": "INT64",
    "event_surface": "BYTES",
    "event_query": "BYTES",
}

FORGET_USER = "forget_user"
"""The action of the event that asks to forget its user."""

BUDGET_TOLERANCE = 2e-3
"""How far the sum of a budget's weights may be from 1. The service divides the weights by their sum."""

STORED: dict[str, str] = {"stored": "INT32"}
