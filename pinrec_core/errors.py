"""The one error hierarchy. Each class carries the status code that the Triton boundary and the CLI answer with.

A message names field, got and expected: ``history_lengths[3]=812 exceeds max_history=512``.
"""

from __future__ import annotations


class PinRecError(Exception):
    """Base of every error this project raises on purpose.

    ``code`` is a gRPC status name; ``pinrec_serving.triton_boundary`` maps it to Triton's codes and the CLI to
    an exit code. Anything that is not a ``PinRecError`` is unforeseen and answered as INTERNAL.
    """

    code = "INTERNAL"
    exit_code = 1


class InvalidRequestError(PinRecError):
    """A request field is malformed. The request is refused; its neighbours in the batch are unharmed."""

    code = "INVALID_ARGUMENT"
    exit_code = 2


class ConfigError(PinRecError):
    """A configuration names an unknown key or a value outside its range."""

    code = "INVALID_ARGUMENT"
    exit_code = 2


class DataError(PinRecError):
    """Input data as a whole cannot be used (a missing column, no valid row). Single bad rows go to quarantine."""

    code = "INVALID_ARGUMENT"
    exit_code = 3


class ReleaseError(PinRecError):
    """A release is incomplete, damaged, or made of parts that do not belong together."""

    code = "FAILED_PRECONDITION"
    exit_code = 4


class StoreError(PinRecError):
    """A signal store cannot be read or written now."""

    code = "UNAVAILABLE"
    exit_code = 5


class ServerError(PinRecError):
    """The inference server cannot be started, reached or told to load a release."""

    code = "UNAVAILABLE"
    exit_code = 6


class StorageError(PinRecError):
    """A file cannot be written now."""


class StoppedError(PinRecError):
    """Somebody wanted the work under way to end, by Ctrl-C or SIGTERM."""

    exit_code = 130


def require(
    condition: bool, field: str, got: object, expected: str, *, error: type[PinRecError] = InvalidRequestError
) -> None:
    """Raise ``error`` with the standard sentence unless ``condition`` holds."""
    if not condition:
        raise error(f"{field}={got!r}: expected {expected}")
