"""The settings with which both clients open their gRPC channel."""

from __future__ import annotations

from typing import Any

from pinrec_client.errors import require
from pinrec_client.types import Tls

DEFAULT_URL = "127.0.0.1:8001"
DEFAULT_TIMEOUT = 2.0  # seconds

_UNLIMITED = -1


def channel_arguments(url: str, tls: Tls | None) -> dict[str, Any]:
    """Arguments for the constructor of tritonclient's blocking or asyncio client.

    Raises ``InvalidRequestError`` when ``url`` is empty.
    """
    require(url != "", "url", url, "host:port of the service")
    arguments: dict[str, Any] = {
        "url": url,
        "channel_args": [
            ("grpc.max_send_message_length", _UNLIMITED),
            ("grpc.max_receive_message_length", _UNLIMITED),
            # A name may resolve to several replicas: calls take turns among them, so a retry reaches another one.
            ("grpc.lb_policy_name", "round_robin"),
            # By default gRPC waits a second before it reconnects, which is longer than our pauses between attempts.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
        ],
    }
    if tls is not None:
        arguments |= {
            "ssl": True,
            "root_certificates": tls.root_certificates,
            "private_key": tls.private_key,
            "certificate_chain": tls.certificate_chain,
        }
    return arguments
