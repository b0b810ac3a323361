"""The errors that a call can raise. Each class stands for one thing that the caller can do about it.

======================  ==============================================================
InvalidRequestError     correct the request; it would fail again as it is
UnavailableError        try another replica, or later: overloaded, draining, starting, down
DeadlineExceededError   allow more time, or go on without an answer
ServerError             report it, with its request id
======================  ==============================================================
"""

from __future__ import annotations

from tritonclient.utils import InferenceServerException

from pinrec_client.contract import ENSEMBLE


class PinRecClientError(Exception):
    """Base of every error of this package.

    ``request_id`` identifies the call in the server's log. It is "" when the error was found before a call was sent.
    """

    def __init__(self, message: str, *, request_id: str = "") -> None:
        super().__init__(message)
        self.request_id = request_id


class InvalidRequestError(PinRecClientError):
    """A field is malformed. The message names the field, what it got and what is expected."""


class UnavailableError(PinRecClientError):
    """The service cannot answer now. This is the only error after which a call is tried again."""


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


_BY_STATUS: dict[str, type[PinRecClientError]] = {
    "INVALID_ARGUMENT": InvalidRequestError,
    "UNAVAILABLE": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
}


def from_triton(error: InferenceServerException, request_id: str) -> PinRecClientError:
    """The error of this package that stands for an error of Triton.

    A server that starts or drains answers NOT_FOUND with "unknown model". The service is then unavailable for a while,
    so this becomes an ``UnavailableError``.
    """
    status = (error.status() or "UNKNOWN").removeprefix("StatusCode.")
    # Triton puts these two in front of a message: the first when a stage failed, the second when Triton itself did.
    message = error.message().removeprefix(f"in ensemble '{ENSEMBLE}', ").removeprefix(f"[request id: {request_id}] ")
    if status == "NOT_FOUND" and "unknown model" in message:
        return UnavailableError(f"the service is starting or draining: {message}", request_id=request_id)
    error_class = _BY_STATUS.get(status, ServerError)
    if error_class is ServerError:
        message = f"{status}: {message}"
    return error_class(message, request_id=request_id)
