"""The options of every command that calls a running service, so that they read the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

Url = Annotated[
    str,
    typer.Option(
        help="host:port of the service's gRPC endpoint, or of several replicas with commas between them. An API key is "
        "read from the environment variable PINREC_API_KEY."
    ),
]
Timeout = Annotated[float, typer.Option(help="Seconds that one call may take, retries included.")]
StringIds = Annotated[bool, typer.Option("--string-ids", help="Take ids as text even where they look like integers.")]

DEFAULT_URL = "127.0.0.1:8001"
DEFAULT_TIMEOUT = 10.0
"""Longer than the client's own default, because a person waits longer than a product service does."""
