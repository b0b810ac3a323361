"""Client of a PinRec service, blocking (``PinRecClient``) and asyncio (``AsyncPinRecClient``).

Read in this order: ``types`` (what goes in and out), ``contract`` (its tensors), ``codec`` (one to the other),
``errors``, ``retry``, then ``sync`` and ``aio``, which only move bytes. Knows nothing of models or releases.
"""

from pinrec_client.aio import AsyncPinRecClient
from pinrec_client.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    PinRecClientError,
    ServerError,
    UnavailableError,
)
from pinrec_client.retry import RetryPolicy
from pinrec_client.sync import PinRecClient
from pinrec_client.types import Event, Recommendations, RecommendedItem, RecommendRequest, Tls

__all__ = [
    "AsyncPinRecClient",
    "DeadlineExceededError",
    "Event",
    "InvalidRequestError",
    "PinRecClient",
    "PinRecClientError",
    "RecommendRequest",
    "Recommendations",
    "RecommendedItem",
    "RetryPolicy",
    "ServerError",
    "Tls",
    "UnavailableError",
]
