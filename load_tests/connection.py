"""How a load test reaches the service: the client without retries, and the key where the service asks for one.

The key is read from the environment, because a command line can be read by every user of the machine.
"""

from __future__ import annotations

import os
from typing import Any

from pinrec_client import PinRecClient, RetryPolicy

KEY_VARIABLE = "PINREC_API_KEY"
NO_RETRIES = RetryPolicy(retries=0)  # a retry would hide a failure of the service from the report


def connect(url: str, timeout: float) -> PinRecClient:
    """A client whose calls take at most ``timeout`` seconds and are never tried again."""
    key = os.environ.get(KEY_VARIABLE)
    credentials: dict[str, Any] = {"api_key": key} if key else {}
    return PinRecClient(url, timeout=timeout, retry=NO_RETRIES, **credentials)


def authorization() -> dict[str, str] | None:
    """The metadata of calls to the server that are none of the client's."""
    key = os.environ.get(KEY_VARIABLE)
    return {"authorization": f"Bearer {key}"} if key else None
