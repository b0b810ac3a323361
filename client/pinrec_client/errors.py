"""What a call can raise: one class per thing a caller can do about it.

======================  ==============================================================
InvalidRequestError     correct the request; sending it again fails again
UnavailableError        try another replica, or later: overloaded, draining, starting, down
DeadlineExceededError   allow more time, or go on without an answer
ServerError             report it, with its request id
======================  ==============================================================
"""

from __future__ import annotations

from tritonclient.utils import InferenceServerException

from pinrec_client.contract import ENSEMBLE


class PinRecClientError(Exception):
    """Base of every error of this package. ``request_id`` finds the call in the server's log; "" before it is sent."""

    def __init__(self, message: str, *, request_id: str = "") -> None:
        super().__init__(message)
        self.request_id = request_id


class InvalidRequestError(PinRecClientError):
    """A field is malformed. The message names the field, what it got and what is expected."""


class UnavailableError(PinRecClientError):
    """The service cannot answer now. The only class that is retried."""


class DeadlineExceededError(PinRecClientError):
    """The answer did not arrive in time. An event write may have happened; sending the same events again is safe."""


class ServerError(PinRecClientError):
    """The service failed, or answered with something that is not in the contract."""

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} (request_id={self.request_id})" if self.request_id else message


def require(condition: bool, field: str, got: object, expected: str) -> None:
    """Raise ``InvalidRequestError`` with the standard sentence unless ``condition`` holds."""
    if not condition:
        raise InvalidRequestError(f"{field}={got!r}: expected {expected}")


_BY_STATUS: dict[str, type[PinRecClientError]] = {
    "INVALID_ARGUMENT": InvalidRequestError,
    "UNAVAILABLE": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
}


def from_triton(error: InferenceServerException, request_id: str) -> PinRecClientError:
    """The error of this package for one of Triton's.

    A server that starts or drains answers NOT_FOUND for the model as a whole ("unknown model"): that is unavailable.
    """
    status = (error.status() or "UNKNOWN").removeprefix("StatusCode.")
    # What Triton puts before the sentence of a stage, or before its own.
    message = error.message().removeprefix(f"in ensemble '{ENSEMBLE}', ").removeprefix(f"[request id: {request_id}] ")
    if status == "NOT_FOUND" and "unknown model" in message:
        return UnavailableError(f"the service is starting or draining: {message}", request_id=request_id)
    error_class = _BY_STATUS.get(status, ServerError)
    if error_class is ServerError:
        message = f"{status}: {message}"
    return error_class(message, request_id=request_id)
