"""The metadata that a call carries beside its message: who calls, for which user, and within which trace."""

from __future__ import annotations

import re
import zlib

from pinrec_client.errors import require
from pinrec_client.types import UserId

Metadata = tuple[tuple[str, str], ...]


_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def user_share(user_id: UserId) -> int:
    """A number from 0 to 99 that is always the same for a user: CRC-32 of the id's decimal digits or text, modulo 100.

    A proxy can send a share of the users to another release by it, without reading the message. The integer 17 and
    the text "17" have the same number.
    """
    return zlib.crc32(str(user_id).encode("utf-8")) % 100


def authorization(api_key: str | None) -> Metadata:
    """The metadata of the API key, or none. Raises ``InvalidRequestError``, which does not show the key."""
    if api_key is None:
        return ()
    # Tested here, because gRPC would show the key in its message.
    printable = isinstance(api_key, str) and re.fullmatch(r"[\x21-\x7e]+", api_key)
    require(bool(printable), "api_key", "(not shown)", "printable ASCII characters without spaces")
    return (("authorization", f"Bearer {api_key}"),)


def of_user(user_id: UserId) -> Metadata:
    """The metadata of a call for one user."""
    return (("pinrec-user", str(user_share(user_id))),)


def trace(traceparent: str | None) -> Metadata:
    """The metadata of a W3C trace context, or none. Raises ``InvalidRequestError``."""
    if traceparent is None:
        return ()
    valid = isinstance(traceparent, str) and _TRACEPARENT.fullmatch(traceparent)
    require(bool(valid), "traceparent", traceparent, "the W3C form version-traceid-parentid-flags in lower-case hex")
    return (("traceparent", traceparent),)
