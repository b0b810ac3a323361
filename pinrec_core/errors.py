"""The hierarchy of the errors that this project raises on purpose.

Each class has a status code for the Triton boundary and an exit code for the command line. A message names the field,
what it got and what was expected, as in ``history_lengths[3]=812: expected at most max_history=512``.
"""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN = 200  # characters of a value in a message
_LISTED = 16  # names in a message


class PinRecError(Exception):
    """The base class.

    ``code`` is the name of a gRPC status, which ``pinrec_serving.triton_boundary`` maps to a code of Triton;
    ``exit_code`` is that of the command line. Any other exception is unforeseen and answered as INTERNAL.
    """

    code = "INTERNAL"
    exit_code = 1


class InvalidRequestError(PinRecError):
    """A field of a request is malformed. Only this request is refused, not the others of its batch."""

    code = "INVALID_ARGUMENT"
    exit_code = 2


class ConfigError(PinRecError):
    """A configuration has an unknown key, or a value that is not allowed."""

    code = "INVALID_ARGUMENT"
    exit_code = 2


class DataError(PinRecError):
    """Input data cannot be used at all, as without a column or any valid row. Single bad rows go to quarantine."""

    code = "INVALID_ARGUMENT"
    exit_code = 3


class ReleaseError(PinRecError):
    """A release is incomplete or damaged, or its parts do not belong together."""

    code = "FAILED_PRECONDITION"
    exit_code = 4


class StoreError(PinRecError):
    """A signal store cannot be read or written at the moment."""

    code = "UNAVAILABLE"
    exit_code = 5


class ServerError(PinRecError):
    """An inference server, this one or one that a stage calls, cannot be started or reached, or lacks a release."""

    code = "UNAVAILABLE"
    exit_code = 6


class ExpiredError(PinRecError):
    """The caller of a request has stopped waiting, so it was not worked on."""

    code = "CANCELLED"


class BrokenStageError(PinRecError):
    """A stage cannot serve any request again in this process, as after an error of its GPU. A new process can."""

    code = "UNAVAILABLE"


class StorageError(PinRecError):
    """A file cannot be written at the moment, as on a full disk."""


class StoppedError(PinRecError):
    """The work was stopped by Ctrl-C or SIGTERM."""

    exit_code = 130


def require(
    condition: bool, field: str, got: object, expected: str, *, error: type[PinRecError] = InvalidRequestError
) -> None:
    """Raise ``error`` with the message ``field=got: expected …`` unless ``condition`` holds."""
    if not condition:
        raise error(f"{field}={shown(got)}: expected {expected}")


def shown(value: object) -> str:
    """The value as a message shows it: a long one is cut, because messages travel in headers and into logs."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def one_of(names: Sequence[str]) -> str:
    """``one of [...]`` for a message: all names, or the first ones and how many there are besides."""
    more = len(names) - _LISTED
    return f"one of {list(names[:_LISTED])}" + (f" and {more} more" if more > 0 else "")
