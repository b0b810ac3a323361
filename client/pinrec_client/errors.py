"""The errors that a call can raise. Each class stands for one thing that the caller can do about it.

======================  ==============================================================
InvalidRequestError     correct the request; it would fail again as it is
AuthenticationError     give the API key that the service expects
UnavailableError        try another replica, or later: overloaded, draining, starting, down
DeadlineExceededError   allow more time, or go on without an answer
ServerError             report it, with its request id
======================  ==============================================================

The base class itself is raised when a call is made after ``close()``.
"""

from __future__ import annotations

import grpc

from pinrec_client.contract import ENSEMBLE


class PinRecClientError(Exception):
    """Base of every error of this package.

    ``request_id`` identifies the call in the server's log, ``endpoint`` is the url that failed last. Both are "" when
    the error was found before a call was sent.
    """

    def __init__(self, message: str, *, request_id: str = "", endpoint: str = "") -> None:
        super().__init__(message)
        self.request_id = request_id
        self.endpoint = endpoint


class InvalidRequestError(PinRecClientError):
    """A field is malformed. The message names the field, what it got and what is expected."""


class AuthenticationError(PinRecClientError):
    """The service refuses the API key, or wants one and got none. No message shows the key."""


class UnavailableError(PinRecClientError):
    """The service cannot answer now. This is the only error after which a call is tried again.

    ``retry_after`` is the time in seconds that the service asked to be left alone, or None if it named none.
    ``no_retry`` tells that it asked not to be tried again for this call.
    """

    retry_after: float | None = None
    no_retry: bool = False


class DeadlineExceededError(PinRecClientError):
    """The answer did not arrive in time. Events may have been stored all the same; writing them again is safe."""


class ServerError(PinRecClientError):
    """The service failed, or its answer does not follow the contract."""

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} (request_id={self.request_id})" if self.request_id else message


def require(condition: bool, field: str, got: object, expected: str) -> None:
    """Raise ``InvalidRequestError`` unless ``condition`` holds. The message names the field, got and expected."""
    if not condition:
        raise InvalidRequestError(f"{field}={got!r}: expected {expected}")


RETRY_PUSHBACK = "grpc-retry-pushback-ms"
"""gRPC's own name: with it a server says after how many milliseconds a refused call may be tried again, or by a
negative number that it may not."""

_BY_STATUS: dict[str, type[PinRecClientError]] = {
    "INVALID_ARGUMENT": InvalidRequestError,
    "UNAVAILABLE": UnavailableError,
    "RESOURCE_EXHAUSTED": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "UNAUTHENTICATED": AuthenticationError,
    "PERMISSION_DENIED": AuthenticationError,
}


def from_rpc(failure: grpc.RpcError, *, request_id: str = "", endpoint: str = "") -> PinRecClientError:
    """The error of this package that stands for a failed call of gRPC, which becomes its cause.

    A server that starts or drains answers NOT_FOUND with "unknown model", and one whose stage has just ended INTERNAL
    with "is not healthy". Both are over in a while, so each becomes an ``UnavailableError``.
    """
    status = failure.code().name
    # Triton puts these two in front of a message: the first when a stage failed, the second when Triton itself did.
    message = (failure.details() or "").removeprefix(f"in ensemble '{ENSEMBLE}', ")
    message = message.removeprefix(f"[request id: {request_id}] ")
    error_class = _BY_STATUS.get(status, ServerError)
    if status == "NOT_FOUND" and "unknown model" in message:
        error_class, message = UnavailableError, f"the service is starting or draining: {message}"
    elif status == "INTERNAL" and "is not healthy" in message:
        error_class, message = UnavailableError, f"a stage of the service has just ended: {message}"
    elif error_class is AuthenticationError:
        # The server's own sentence might repeat the key.
        message = f"{status}: the service expects a valid API key (api_key=, or PINREC_API_KEY on the command line)"
    elif error_class is ServerError:
        message = f"{status}: {message}"
    error = error_class(message, request_id=request_id, endpoint=endpoint)
    error.__cause__ = None if error_class is AuthenticationError else failure
    if isinstance(error, UnavailableError):
        error.retry_after, error.no_retry = _pushback(failure)
    return error


def _pushback(failure: grpc.RpcError) -> tuple[float | None, bool]:
    """Seconds until the call may be tried again (None: not said), and whether it may not be tried again at all."""
    value = next((value for key, value in failure.trailing_metadata() or () if key == RETRY_PUSHBACK), None)
    if value is None:
        return None, False
    # gRPC itself hands on a malformed number as a negative one, and both mean the same.
    return (int(value) / 1e3, False) if value.isdecimal() else (None, True)
