"""The tensors of the service: names and element types, as the server's own contract has them (a test compares).

A request carries one user, so every tensor is [1, n]. ``ID`` stands for INT64, or BYTES where a release's ids are
strings; the Python type of the id decides which is sent, and the server refuses the wrong one.
"""

from __future__ import annotations

ENSEMBLE = "pinrec"
INGEST = "signal_ingest"

ID = "ID"

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
}

RESPONSE: dict[str, str] = {
    "item_id": ID,
    "score": "FP32",
    "outcome": "BYTES",
    "release": "BYTES",
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

BUDGET_TOLERANCE = 2e-3
"""How far the weights of a budget may be from summing to 1; the service normalises them."""

STORED: dict[str, str] = {"stored": "INT32"}
