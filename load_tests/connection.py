"""How a load test reaches the service: the client without retries, TLS, and the key where the service asks for one.

The key is read from the environment, because a command line can be read by every user of the machine.
"""

from __future__ import annotations

from argparse import Namespace

from pinrec_client import PinRecClient, RetryPolicy, Tls
from pinrec_client.text import api_key

NO_RETRIES = RetryPolicy(retries=0)  # a retry would hide a failure of the service from the report


def connect(url: str, options: Namespace) -> PinRecClient:
    """A client whose calls take at most ``options.request_timeout`` seconds and are never tried again.

    Raises ``PinRecClientError`` when the file of ``--root-certificates`` does not exist.
    """
    return PinRecClient(url, timeout=options.request_timeout, retry=NO_RETRIES, tls=tls(options), api_key=api_key())


def tls(options: Namespace) -> Tls | None:
    """The TLS settings of ``--root-certificates``; None without it. Raises as ``connect`` does."""
    return Tls(root_certificates=options.root_certificates) if options.root_certificates else None
