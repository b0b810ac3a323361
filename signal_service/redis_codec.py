"""How a store on the Redis protocol lays out users and events. It knows no connection.

Two keys belong to a user: the events, a sorted set, and the tombstone, a string. The part of a key between braces
decides the node of a cluster (the *hash tag*); it is the user in both, so both are always on one node.

A score is a double and cannot hold every int64. So all scores are 0, and members, which then sort by their bytes, begin
with the time and the event id. The rest of a member is the value. An id ends with two bytes that sort before
everything that an id can go on with, so that "a" stands before "ab" whatever the values are.
"""

from __future__ import annotations

from pinrec_core.errors import StoreError
from signal_service.event_codec import decode_event, event_key, event_value, range_start
from signal_service.store import Event

EVENTS, FORGOTTEN = b"pinrec:events:{u", b"pinrec:forgotten:{u"
"""The beginnings of keys. The letter u keeps the hash tag from being empty, whatever byte a user key begins with."""
END = b"}"
TIME_BYTES = 8
MAX_TIME = (1 << 63) - 1
_ZERO, _ESCAPED, _ID_END = b"\0", b"\0\xff", b"\0\x01"  # UTF-8 never has the byte FF


def events_key(user_key: bytes) -> bytes:
    range_start(user_key, 0)  # refuses a user key that no store takes
    return EVENTS + user_key + END


def forgotten_key(user_key: bytes) -> bytes:
    range_start(user_key, 0)
    return FORGOTTEN + user_key + END


def user_of(key: bytes) -> bytes:
    """The user behind a key of either kind."""
    start = EVENTS if key.startswith(EVENTS) else FORGOTTEN
    return key[len(start) : -len(END)]


def time_bytes(timestamp: int) -> bytes:
    """Eight bytes that sort as int64 times do."""
    return range_start(b"u", timestamp)[-TIME_BYTES:]


def time_of(stored: bytes) -> int:
    if len(stored) != TIME_BYTES:
        raise StoreError(f"a stored time has {len(stored)} bytes: expected {TIME_BYTES}")
    return int.from_bytes(stored, "big") - (1 << 63)


def encode(event: Event) -> tuple[bytes, bytes]:
    """What identifies the event among those of its user, and its value. A member is both of them, joined."""
    if not -MAX_TIME - 1 <= event.timestamp <= MAX_TIME:
        raise StoreError(f"timestamp={event.timestamp}: expected a time that 64 bits hold")
    time_and_id = event_key(event)[len(range_start(event.user_key, 0)) - TIME_BYTES :]
    time, event_id = time_and_id[:TIME_BYTES], time_and_id[TIME_BYTES:]
    return time + event_id.replace(_ZERO, _ESCAPED) + _ID_END, event_value(event)


def decode(user_key: bytes, member: bytes) -> Event:
    """Raises ``StoreError`` for bytes that are no event."""
    event_id, end, value = member[TIME_BYTES:].partition(_ID_END)
    if not end:
        raise StoreError("a stored event cannot be read: expected the end of its id")
    key = range_start(user_key, 0)[:-TIME_BYTES] + member[:TIME_BYTES] + event_id.replace(_ESCAPED, _ZERO)
    return decode_event(key, value)


def from_time(timestamp: int) -> bytes:
    """The lower bound, in ``ZRANGEBYLEX``, of events at ``timestamp`` or later."""
    return b"[" + time_bytes(timestamp) if timestamp <= MAX_TIME else b"+"


def before_time(timestamp: int) -> bytes:
    """The upper bound of events before ``timestamp``."""
    return b"(" + time_bytes(timestamp) if timestamp <= MAX_TIME else b"+"


def identity_bounds(identity: bytes) -> tuple[bytes, bytes]:
    """The bounds of the one member that begins with ``identity``; a value never begins with the byte FF."""
    return b"[" + identity, b"(" + identity + b"\xff"
