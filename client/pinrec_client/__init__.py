"""Client of a PinRec service, blocking (``PinRecClient``) and asyncio (``AsyncPinRecClient``).

Read the modules in this order: ``types`` (requests, answers and events), ``contract`` (the tensors of the service),
``codec`` (translates between the two), ``errors``, ``retry``, ``methods`` (what both clients do, written once), then
``sync`` and ``aio`` (how each of them reaches the server and waits). ``text`` and ``__main__`` are the command line.
The package knows nothing of models or releases, and imports nothing of the server.
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
