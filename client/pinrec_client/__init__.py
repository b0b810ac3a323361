"""Client of a PinRec service, blocking (``PinRecClient``) and asyncio (``AsyncPinRecClient``).

Read the modules in this order: ``types`` (requests, answers and events), ``contract`` (the tensors of the service),
``codec`` (translates between the two), ``metadata`` (what goes beside a message), ``errors``, ``channel``,
``endpoints`` (which replica gets an attempt), ``retry`` (whether there is another attempt), ``transport`` (how messages
are sent and waited for), ``attempts`` (at one model: retries and hedges), ``methods`` (what both clients do, written
once), then ``sync`` and ``aio``. ``text`` and ``__main__`` are the command line.
The package knows nothing of models or releases, and imports nothing of the server.
"""

from pinrec_client.aio import AsyncPinRecClient
from pinrec_client.errors import (
    AuthenticationError,
    DeadlineExceededError,
    InvalidRequestError,
    PinRecClientError,
    ServerError,
    UnavailableError,
)
from pinrec_client.metadata import user_share
from pinrec_client.retry import RetryPolicy
from pinrec_client.sync import PinRecClient
from pinrec_client.types import Event, Recommendations, RecommendedItem, RecommendRequest, Tls

__all__ = [
    "AsyncPinRecClient",
    "AuthenticationError",
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
    "user_share",
]
