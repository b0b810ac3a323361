"""How both clients open their channel."""

from __future__ import annotations

from typing import Any

from pinrec_client.errors import require
from pinrec_client.types import Tls

DEFAULT_URL = "127.0.0.1:8001"
DEFAULT_TIMEOUT = 2.0

_UNLIMITED = -1


def channel_arguments(url: str, tls: Tls | None) -> dict[str, Any]:
    """Constructor arguments of either of tritonclient's gRPC clients. Raises ``InvalidRequestError`` for no url."""
    require(url != "", "url", url, "host:port of the service")
    arguments: dict[str, Any] = {
        "url": url,
        "channel_args": [
            ("grpc.max_send_message_length", _UNLIMITED),
            ("grpc.max_receive_message_length", _UNLIMITED),
            # A name that resolves to several replicas is used as such, and a retry goes to the next of them.
            ("grpc.lb_policy_name", "round_robin"),
            # gRPC waits a second before it connects anew: longer than a retry of ours.
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
