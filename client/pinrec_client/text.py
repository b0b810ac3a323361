"""Reads ids, budgets, API key and TLS files and writes answers as JSON, for this command line and for ``pinrec``."""

from __future__ import annotations

import os
from typing import Any

from pinrec_client.errors import InvalidRequestError, PinRecClientError
from pinrec_client.types import Recommendations, Tls, UserId

API_KEY = "PINREC_API_KEY"

File = str | os.PathLike[str]


def api_key() -> str | None:
    """The key in the environment, if there is one. No option takes it, because others can read a command line."""
    return os.environ.get(API_KEY) or None


def tls_files(tls: bool, root_certificates: File | None, certificate: File | None, key: File | None) -> Tls | None:
    """The TLS settings that options of a command line stand for, None without any. Raises ``InvalidRequestError``.

    Without ``key``, the private key is in the file of ``certificate``.
    """
    files = [None if file is None else os.fspath(file) for file in (root_certificates, certificate, key or certificate)]
    if not tls and not any(files):
        return None
    return Tls(root_certificates=files[0], certificate_chain=files[1], private_key=files[2])


def parse_id(text: str, *, string_ids: bool = False) -> int | str:
    """A user or item id: an integer when the text looks like one and ``string_ids`` is not set, else the text."""
    if not string_ids and text.removeprefix("-").isdecimal():
        return int(text)
    return text


def parse_budget(text: str) -> dict[str, float]:
    """Read ``like=.7,neutral=.3`` as a mapping of outcomes to weights. Raises ``InvalidRequestError``."""
    budget: dict[str, float] = {}
    for part in text.split(","):
        outcome, separator, weight = part.rpartition("=")
        outcome = outcome.strip()
        try:
            value = float(weight)
        except ValueError:
            separator = ""
        if not separator or not outcome:
            raise InvalidRequestError(f"budget={text!r}: expected outcome=weight, …, as in like=.7,neutral=.3")
        if outcome in budget:
            raise InvalidRequestError(f"budget={text!r}: expected each outcome once, {outcome!r} is there twice")
        budget[outcome] = value
    return budget


def document(user_id: UserId, answer: Recommendations | PinRecClientError) -> dict[str, Any]:
    """A JSON object: ``user_id`` with the fields of an answer, or with ``error`` and ``message``."""
    if isinstance(answer, PinRecClientError):
        return {"user_id": user_id, "error": type(answer).__name__, "message": str(answer)}
    items = [
        {"rank": item.rank, "item_id": item.item_id, "outcome": item.outcome, "score": item.score}
        for item in answer.items
    ]
    return {
        "user_id": user_id,
        "release": answer.release,
        "history_source": answer.history_source,
        "history_unavailable": answer.history_unavailable,
        "items": items,
    }


def history_of(source: str, unavailable: str) -> str:
    """A few words on what an answer is based on: ``history: batch (realtime unavailable)``."""
    return f"history: {source}" + (f" ({unavailable} unavailable)" if unavailable else "")
