"""The options of every command that calls a running service, so that they read the same everywhere.

No option takes a secret, because others can read a command line: the API key comes from the environment, and the
private key from a file.
"""

from __future__ import annotations

from pathlib import Path
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

UseTls = Annotated[bool, typer.Option("--tls", help="Use TLS; the other options of TLS imply it.")]
RootCertificates = Annotated[
    Path | None,
    typer.Option(
        metavar="PEM",
        help="Certificates of the authorities that vouch for the service; by default the well-known ones.",
        envvar="PINREC_ROOT_CERTIFICATES",
        show_default=False,
    ),
]
Certificate = Annotated[
    Path | None,
    typer.Option(
        metavar="PEM",
        help="Certificate and chain that this client shows, where the service asks for them.",
        envvar="PINREC_CLIENT_CERTIFICATE",
        show_default=False,
    ),
]
Key = Annotated[
    Path | None,
    typer.Option(
        metavar="PEM",
        help="Private key of --certificate.",
        envvar="PINREC_CLIENT_KEY",
        show_default="in the file of --certificate",
    ),
]

DEFAULT_URL = "127.0.0.1:8001"
DEFAULT_TIMEOUT = 10.0
"""Longer than the client's own default, because a person waits longer than a product service does."""
