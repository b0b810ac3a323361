"""Opens the client of a command and turns its errors into this project's, so that every command fails in the same way.

The client is a distribution of its own and cannot raise ``PinRecError`` itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pinrec_client import DeadlineExceededError, PinRecClient, PinRecClientError, UnavailableError
from pinrec_client import InvalidRequestError as ClientInvalidRequestError
from pinrec_client.text import api_key, tls_files

from pinrec_core.errors import InvalidRequestError, PinRecError, ServerError


def as_pinrec_error(error: PinRecClientError) -> PinRecError:
    """The error of this project that corresponds to a client's error. It keeps the message."""
    if isinstance(error, ClientInvalidRequestError):
        return InvalidRequestError(str(error))
    if isinstance(error, UnavailableError):
        return ServerError(
            f"{error}; is the service running (`pinrec serve`), is --url right, does it want TLS (--tls)?"
        )
    if isinstance(error, DeadlineExceededError):
        return ServerError(f"no answer in time ({error}); --timeout allows more")
    return PinRecError(str(error))


@contextmanager
def client_errors() -> Iterator[None]:
    """Raises the client's errors of the block as ``PinRecError``."""
    try:
        yield
    except PinRecClientError as error:
        raise as_pinrec_error(error) from error


@contextmanager
def connected(
    url: str, *, timeout: float, tls: bool, root_certificates: Path | None, certificate: Path | None, key: Path | None
) -> Iterator[PinRecClient]:
    """A client with the options of ``client_options`` and the API key of the environment; see ``client_errors``."""
    with (
        client_errors(),
        PinRecClient(
            url, timeout=timeout, tls=tls_files(tls, root_certificates, certificate, key), api_key=api_key()
        ) as client,
    ):
        yield client
