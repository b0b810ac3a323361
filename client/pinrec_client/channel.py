"""Reads the urls of a service and opens a gRPC channel to each.

``Connection`` and ``channel_arguments`` are for tools that need more of Triton's protocol than the clients do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import grpc
from tritonclient.grpc import InferenceServerClient

from pinrec_client.errors import PinRecClientError, require
from pinrec_client.types import Tls

DEFAULT_URL = "127.0.0.1:8001"
DEFAULT_TIMEOUT = 2.0  # seconds

_CLOSED = "the client is closed"

_UNLIMITED = -1
_OPTIONS = [
    ("grpc.max_send_message_length", _UNLIMITED),
    ("grpc.max_receive_message_length", _UNLIMITED),
    # A name may resolve to several addresses: the calls of this channel take turns among them.
    ("grpc.lb_policy_name", "round_robin"),
    # By default gRPC waits a second before it reconnects, which is longer than our pauses between attempts.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # An attempt to connect to a host that is gone would last 20 s, and the pauses would grow to two minutes.
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A host that is gone sends no reset: every call would end with its deadline until the system gives the connection
    # up, after a quarter of an hour. The timeout also bounds how long sent bytes may stay unacknowledged
    # (TCP_USER_TIMEOUT), so it is given up after two seconds, and a name is then served by its other addresses. Pings
    # are as rare as a Triton server accepts them.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 1000),
]


def split_urls(url: str | Sequence[str]) -> list[str]:
    """The urls of a list, or of a text with commas between them. Raises ``InvalidRequestError``."""
    urls = [part.strip() for part in url.split(",")] if isinstance(url, str) else list(url)
    require(len(urls) > 0 and all(isinstance(one, str) and one for one in urls), "url", url,
            "host:port of the service, or of each of its replicas")  # fmt: skip
    require(len(set(urls)) == len(urls), "url", url, "each replica once")
    return urls


def open_channel(url: str, tls: Tls | None = None, *, kind: ModuleType = grpc) -> Any:
    """A channel that blocks, or an asyncio one if ``kind`` is ``grpc.aio``. It connects when it is first used."""
    if tls is None:
        return kind.insecure_channel(url, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(tls.root_certificates),
        private_key=_read(tls.private_key),
        certificate_chain=_read(tls.certificate_chain),
    )
    return kind.secure_channel(url, credentials, options=_OPTIONS)


class Channels:
    """A channel to each url of the service. Their client closes them once, and what it asks of any model then ends."""

    def __init__(self, urls: Sequence[str], open_one: Callable[[str], Any]) -> None:
        self.by_url = {url: open_one(url) for url in urls}
        self.closed = False

    def require_open(self) -> None:
        """Raise ``PinRecClientError`` when the client is closed."""
        if self.closed:
            raise PinRecClientError(_CLOSED)

    @contextmanager
    def closing_named(self) -> Iterator[None]:
        """What gRPC raises in a call whose client is closed meanwhile becomes this package's error."""
        try:
            yield
        except (ValueError, grpc.aio.UsageError) as error:
            if self.closed:
                raise PinRecClientError(_CLOSED) from error
            raise
        except asyncio.CancelledError as error:
            # gRPC cancels the calls of a channel that is closed. A task that is cancelled itself stays cancelled.
            # Before Python 3.11 the two cannot be told apart.
            cancelling = getattr(asyncio.current_task(), "cancelling", None)
            if self.closed and cancelling is not None and not cancelling():
                raise PinRecClientError(_CLOSED) from error
            raise


def channel_arguments(url: str, tls: Tls | None) -> dict[str, Any]:
    """Arguments for the constructor of tritonclient's own client, with the settings of ``open_channel``."""
    arguments: dict[str, Any] = {"url": url, "channel_args": _OPTIONS}
    if tls is not None:
        arguments |= {
            "ssl": True,
            "root_certificates": tls.root_certificates,
            "private_key": tls.private_key,
            "certificate_chain": tls.certificate_chain,
        }
    return arguments


class Connection(InferenceServerClient):
    """tritonclient's blocking client, closed at most once.

    tritonclient's own class closes its channel a second time when it is garbage-collected. Under gevent, gRPC counts
    the open channels, and a second close takes another channel off that count: its calls then hang.
    """

    _closed = False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            super().close()


def _read(path: str | None) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()
