"""Encodes an event as a key and a value for a store that sorts keys by their bytes.

Keys sort by user, then time, then event id. So a user's events in a span of time are one range of keys. Behind the keys
of all events are those of the tombstones: one for each user who asked to be forgotten, with the time of that. This
module does not know the database.
"""

from __future__ import annotations

import struct

from pinrec_core.errors import StoreError
from pinrec_core.history import ItemType
from pinrec_core.limits import ID
from signal_service.store import Event

VERSION = 1
MAX_NAME_BYTES = (1 << 16) - 1
TOMBSTONES = b"\xff\xff"
"""What the key of a tombstone begins with. No key of an event does: it begins with the length of a user key, at most
``limits.ID``. So stores of before there were tombstones need no conversion."""
_LENGTH = struct.Struct(">H")
_TIME = struct.Struct(">Q")
_VALUE = struct.Struct("<BBqHHI")  # version, item type, item key, bytes of action, surface and query
_ITEM_TYPES = {int(item_type): item_type for item_type in ItemType}  # ItemType(…) takes a tenth of the time of all this
_AT = struct.Struct("<Bq")  # version, time


def range_start(user_key: bytes, timestamp: int) -> bytes:
    """The smallest key that a user's event at ``timestamp`` or later can have.

    The length in front keeps the users "ab" and "abc" apart. Raises ``StoreError`` for an empty or too long user key.
    """
    biased = min(max(timestamp + (1 << 63), 0), (1 << 64) - 1)  # with the sign flipped, bytes sort as times do
    return _user_start(user_key) + _TIME.pack(biased)


def after_user(user_key: bytes) -> bytes:
    """A key above those of all events of the user, and not above those of the next user."""
    return (int.from_bytes(start := _user_start(user_key), "big") + 1).to_bytes(len(start), "big")


def user_of(key: bytes) -> bytes:
    """The user key in the key of an event. Raises ``StoreError`` for another key."""
    user_bytes = int.from_bytes(key[: _LENGTH.size], "big")
    if not 0 < user_bytes <= ID.most or len(key) < _LENGTH.size + user_bytes + _TIME.size:
        raise StoreError(f"a key of {len(key)} bytes in the store is not that of an event")
    return key[_LENGTH.size : _LENGTH.size + user_bytes]


def tombstone_key(user_key: bytes) -> bytes:
    return TOMBSTONES + _user_start(user_key)[_LENGTH.size :]


def tombstone_value(at: int) -> bytes:
    return _AT.pack(VERSION, at)


def decode_tombstone(value: bytes) -> int:
    """The time (Unix seconds) up to which a user is forgotten. Raises ``StoreError`` for other bytes."""
    if len(value) != _AT.size or value[0] != VERSION:
        raise StoreError(f"a stored tombstone has {len(value)} bytes, begins {value[:1]!r}: expected version {VERSION}")
    return _AT.unpack(value)[1]


def _user_start(user_key: bytes) -> bytes:
    """What the keys of all events of the user begin with, and of no other user."""
    if not 0 < len(user_key) <= ID.most:
        raise StoreError(f"user_key has {len(user_key)} bytes: expected 1 to {ID.most}")
    return _LENGTH.pack(len(user_key)) + user_key


def event_key(event: Event) -> bytes:
    if not event.event_id:
        raise StoreError("event_id='': expected an id; without one an append could not be repeated")
    return range_start(event.user_key, event.timestamp) + event.event_id.encode("utf-8")


def event_value(event: Event) -> bytes:
    action, surface, query = (text.encode("utf-8") for text in (event.action, event.surface, event.query))
    if max(len(action), len(surface)) > MAX_NAME_BYTES:
        raise StoreError(f"an action or surface has more than {MAX_NAME_BYTES} bytes")
    header = _VALUE.pack(VERSION, event.item_type, event.item_key, len(action), len(surface), len(query))
    return header + action + surface + query


def decode_event(key: bytes, value: bytes) -> Event:
    """The event behind a key and a value. Raises ``StoreError`` for bytes that are not an event of this version."""
    try:
        (user_bytes,) = _LENGTH.unpack_from(key)
        user_end = _LENGTH.size + user_bytes
        (biased,) = _TIME.unpack_from(key, user_end)
        version, item_type, item_key, *lengths = _VALUE.unpack_from(value)
        if version != VERSION or len(value) != _VALUE.size + sum(lengths):
            raise StoreError(f"a stored event has version {version}, {len(value)} bytes: expected version {VERSION}")
        action_end = _VALUE.size + lengths[0]
        surface_end = action_end + lengths[1]
        return Event(
            event_id=key[user_end + _TIME.size :].decode("utf-8"),
            user_key=key[_LENGTH.size : user_end],
            item_key=item_key,
            item_type=_ITEM_TYPES[item_type],
            action=value[_VALUE.size : action_end].decode("utf-8"),
            surface=value[action_end:surface_end].decode("utf-8"),
            timestamp=biased - (1 << 63),
            query=value[surface_end:].decode("utf-8"),
        )
    except (struct.error, ValueError, KeyError) as error:
        raise StoreError(f"a stored event cannot be read: {error}") from error
